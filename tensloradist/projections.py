"""The names of the projections that can be adapted: of attention, and of the feed-forward network."""

QKV = ("query", "key", "value")
QKVO = (*QKV, "attention_output")
FFN = ("fc1", "fc2")
PROJECTIONS = (*QKVO, *FFN)
FFN_CHUNKS = 4  # fc1 maps d to 4d features and fc2 maps them back: each is four d × d matrices
