"""`attn-lstm statistics`, by its older name."""

from attn_lstm.commands import run

if __name__ == "__main__":
    run("statistics")
