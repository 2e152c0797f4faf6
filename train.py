"""`attn-lstm train`, in a checkout."""

from attn_lstm.commands import run

if __name__ == "__main__":
    run("train")
