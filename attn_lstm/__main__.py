"""`python -m attn_lstm`, which is `attn-lstm`."""

from attn_lstm.commands import main

if __name__ == "__main__":
    main()
