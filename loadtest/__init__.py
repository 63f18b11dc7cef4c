"""`runlane-load`: load tests of anything that is compatible with RunPod."""
