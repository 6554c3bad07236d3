"""The todo list over HTTP."""

import json
import sys
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer

from todos import Todos


class App:
    """Answers requests; knows nothing of sockets, so that tests can call it."""

    def __init__(self):
        self.todos = Todos()

    def handle(self, method, path, body, headers):
        """Returns a status and what goes out as JSON."""
        parts = [part for part in path.split("/") if part]
        if parts == ["todos"] and method == "GET":
            return 200, self.todos.list()
        if parts == ["todos"] and method == "POST":
            try:
                return 201, self.todos.add(body.get("title", ""))
            except ValueError as error:
                return 400, {"error": str(error)}
        if len(parts) == 3 and parts[0] == "todos" and parts[2] == "done" and method == "POST":
            try:
                return 200, self.todos.done(int(parts[1]))
            except (KeyError, ValueError):
                return 404, {"error": "no such todo"}
        return 404, {"error": "no such page"}


def serve(app, port):
    """A server on the loopback address; port 0 takes a free one."""

    class Handler(BaseHTTPRequestHandler):
        def answer(self):
            length = int(self.headers.get("Content-Length") or 0)
            try:
                body = json.loads(self.rfile.read(length) or b"{}")
            except ValueError:
                return self.reply(400, {"error": "the body is not JSON"})
            return self.reply(*app.handle(self.command, self.path, body, self.headers))

        do_GET = do_POST = answer

        def reply(self, status, payload):
            text = json.dumps(payload).encode()
            self.send_response(status)
            self.send_header("Content-Type", "application/json")
            self.send_header("Content-Length", str(len(text)))
            self.end_headers()
            self.wfile.write(text)

        def log_message(self, *_):
            pass

    return ThreadingHTTPServer(("127.0.0.1", port), Handler)


if __name__ == "__main__":
    server = serve(App(), int(sys.argv[1]) if len(sys.argv) > 1 else 8000)
    print(f"serving on http://127.0.0.1:{server.server_port}")
    server.serve_forever()
