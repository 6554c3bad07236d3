"""The tools of a gateway's MCP endpoint, called by the official client: URL and token are the arguments."""

import asyncio
import json
import sys

import httpx2
from mcp import Client
from mcp.client.streamable_http import streamable_http_client


async def use(url, token, mode):
    http = httpx2.AsyncClient(headers={"Authorization": f"Bearer {token}"}, timeout=60)
    async with Client(streamable_http_client(url, http_client=http), mode=mode) as client:
        listed = [tool.name for tool in (await client.list_tools()).tools]
        assert listed == ["checkpoint", "read_budget", "read_lineage", "spawn_machine", "list_machines"], listed

        async def call(tool, **arguments):
            result = await client.call_tool(tool, arguments)
            assert not result.is_error, result
            return json.loads(result.content[0].text)

        budget = await call("read_budget")
        assert budget["levels"][-1]["name"] == "Machine default/m", budget
        assert (await call("read_lineage"))["machine"] == "m"
        made = await call("spawn_machine", prompt="help", name=f"by-{mode}", **{"from": "Now"})
        assert made["name"] == f"by-{mode}", made
        assert made["name"] in [machine["name"] for machine in (await call("list_machines"))["machines"]]
        taken = await client.call_tool("checkpoint", {"description": mode})
        # The second comes too soon after the first, unless it falls into another ten seconds.
        assert "ask again in" in taken.content[0].text if taken.is_error else "Ready" in taken.content[0].text, taken
        refused = await client.call_tool("spawn_machine", {"prompt": "x", "from": "Now", "permissions": ["SpawnMachines"]})
        assert refused.is_error and "may not spawn others" in refused.content[0].text, refused
        print(f"{mode}: all of {len(listed)} tools")


async def main(url, token):
    for mode in ("auto", "legacy"):
        await use(url, token, mode)


asyncio.run(main(*sys.argv[1:]))
