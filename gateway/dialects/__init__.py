"""The languages that clients and workers speak: HTTP in, engine calls, HTTP out. No logic of their own."""
