"""The tools of an expedition over MCP, by standard input and output: for any agent that speaks it."""

from __future__ import annotations

import json
from typing import Any

from evolve.agent import tools
from evolve.errors import EXIT_MISSING, UserError
from evolve.operator.session import OperatorSession

INSTRUCTIONS = (
    "You improve a scheduling heuristic. Call brief first: it says what the program does, how it is judged and what is "
    "left of the budget, which the server enforces. Then look, evaluate drafts and submit one; the next brief follows."
)
OWN = {
    "brief": "Read the task: language, parent program, scores, feedback and what is left.",
    "status": "See where the run stands: expeditions done and wanted, the leader on the training shapes.",
}


def build_server(session: OperatorSession) -> Any:
    """An MCP server that answers from a session, one call at a time.

    Raises:
        UserError: the extra `mcp` is missing.
    """
    try:
        import anyio
        import mcp_types as types
        from mcp.server import Server
    except ImportError as error:
        hint = "pip install 'evosplit[mcp]'"
        raise UserError("MCP needs the package mcp", hint=hint, exit_code=EXIT_MISSING) from error
    one_at_a_time = anyio.Lock()

    async def list_tools(context: Any, params: Any) -> Any:
        empty = {"type": "object", "properties": {}}
        own = [types.Tool(name=name, description=text, input_schema=empty) for name, text in OWN.items()]
        known = [
            types.Tool(name=name, description=tools.description(name), input_schema=tools.parameters(name))
            for name in session.tool_names
        ]
        return types.ListToolsResult(tools=[*own, *known])

    async def call_tool(context: Any, params: Any) -> Any:
        async with one_at_a_time:
            try:
                text, failed = await anyio.to_thread.run_sync(_answer, session, params.name, params.arguments or {})
            except UserError as error:
                text, failed = f"{error}; {error.hint}", True
        return types.CallToolResult(content=[types.TextContent(type="text", text=text)], is_error=failed)

    return Server("evosplit", instructions=INSTRUCTIONS, on_list_tools=list_tools, on_call_tool=call_tool)


def _answer(session: OperatorSession, name: str, arguments: dict[str, Any]) -> tuple[str, bool]:
    """Text of a call, and True if it failed."""
    if name == "brief":
        return session.brief(), False
    if name == "status":
        return json.dumps(session.status()), False
    told = session.call(name, json.dumps(arguments))
    if told.ended:
        after = f"\n\nThe expedition has ended: {told.ended}. {json.dumps(told.committed)}. Call brief for the next."
        return told.text + after, False
    return told.text, False


def serve(session: OperatorSession) -> None:
    """Serve on standard input and output until the client leaves."""
    server = build_server(session)
    import anyio
    from mcp.server.stdio import stdio_server

    async def main() -> None:
        async with stdio_server() as (reads, writes):
            await server.run(reads, writes, server.create_initialization_options())

    anyio.run(main)
