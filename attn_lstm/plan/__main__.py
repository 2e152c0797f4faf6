"""`attn-lstm plan`, by the name of its room."""

from attn_lstm.commands import run

if __name__ == "__main__":
    run("plan")
