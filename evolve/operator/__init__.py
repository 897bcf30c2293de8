"""External operators: any agent makes the expeditions of a run, by MCP or by the command line."""
