"""How many no-op jobs a second one worker of another library runs, measured as runlane's own worker is."""
