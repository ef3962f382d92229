"""The smallest app: run it by ``umbel worker -A hello`` in this folder, and call it by ``python hello.py``."""

from umbel import Umbel

app = Umbel("hello")  # no broker named: a durable SQLite queue beside this file


@app.task
def hello(name: str) -> str:
    """Greet."""
    return f"hello {name}"


if __name__ == "__main__":
    print(hello.delay("world").get(timeout=30))
