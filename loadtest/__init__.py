"""Load tests of anything that is compatible with RunPod."""
