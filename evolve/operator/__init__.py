"""External operators: any agent can make the expeditions of a run, by MCP or by the command line."""
