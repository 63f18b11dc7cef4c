"""The groups of the command line, one a module. What takes time to import is imported where it is used."""
