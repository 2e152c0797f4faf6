"""What an order-free network can be given beyond the paper, all of it at once."""

FURTHER = {
    "decoder.heads": 4,
    "decoder.query": "state_and_probabilities",
    "decoder.loss": "asymmetric",
    "decoder.learned_stop": True,
}
