"""Writes a tiny llama model as GGUF: a real architecture and a real tokenizer with random weights, half a megabyte.

Its answers are noise; its token counts, streams and embeddings are those of a real model server. The same seed gives
the same bytes. Run as `python tiny_model.py FILE`.
"""

import os
import sys

import gguf
import numpy

SEED = 20240229
CONTEXT_TOKENS = 2048
WIDTH = 64
BLOCKS = 2
FEED_FORWARD = 128
HEADS = 4
# Small enough that two layers do not saturate, large enough that logits differ.
SPREAD = 0.2

# Chat messages as plain lines; the model never learned another form.
CHAT_TEMPLATE = "{% for m in messages %}{{ m['role'] }}: {{ m['content'] }}\n{% endfor %}assistant:"


def vocabulary():
    """Three control tokens, every byte, and the printable ASCII characters: any text can be encoded."""
    kinds = gguf.TokenType
    tokens = [("<unk>", kinds.UNKNOWN), ("<s>", kinds.CONTROL), ("</s>", kinds.CONTROL)]
    tokens += [(f"<0x{byte:02X}>", kinds.BYTE) for byte in range(256)]
    # SentencePiece writes the space as U+2581.
    tokens += [("\u2581" if code == 0x20 else chr(code), kinds.NORMAL) for code in range(0x20, 0x7F)]
    return tokens


def tensors(size):
    """Name and shape of every tensor of the architecture, in file order."""
    yield "token_embd.weight", (size, WIDTH)
    yield "output_norm.weight", (WIDTH,)
    yield "output.weight", (size, WIDTH)
    for block in range(BLOCKS):
        prefix = f"blk.{block}."
        yield prefix + "attn_norm.weight", (WIDTH,)
        for part in ("attn_q", "attn_k", "attn_v", "attn_output"):
            yield f"{prefix}{part}.weight", (WIDTH, WIDTH)
        yield prefix + "ffn_norm.weight", (WIDTH,)
        yield prefix + "ffn_gate.weight", (FEED_FORWARD, WIDTH)
        yield prefix + "ffn_up.weight", (FEED_FORWARD, WIDTH)
        yield prefix + "ffn_down.weight", (WIDTH, FEED_FORWARD)


def write(path):
    """Writes the model to `path`; a file that is there already is whole, because it appears by a rename."""
    if os.path.exists(path):
        return
    words = vocabulary()
    partial = f"{path}.{os.getpid()}"
    writer = gguf.GGUFWriter(partial, "llama")
    writer.add_name("tollgate-tiny")
    writer.add_context_length(CONTEXT_TOKENS)
    writer.add_embedding_length(WIDTH)
    writer.add_block_count(BLOCKS)
    writer.add_feed_forward_length(FEED_FORWARD)
    writer.add_head_count(HEADS)
    writer.add_head_count_kv(HEADS)
    writer.add_layer_norm_rms_eps(1e-5)
    writer.add_rope_dimension_count(WIDTH // HEADS)
    writer.add_vocab_size(len(words))
    writer.add_tokenizer_model("llama")
    writer.add_token_list([text for text, _ in words])
    writer.add_token_scores([0.0] * len(words))
    writer.add_token_types([kind for _, kind in words])
    writer.add_unk_token_id(0)
    writer.add_bos_token_id(1)
    writer.add_eos_token_id(2)
    writer.add_chat_template(CHAT_TEMPLATE)
    random = numpy.random.default_rng(SEED)
    for name, shape in tensors(len(words)):
        if len(shape) == 1:
            values = numpy.ones(shape, dtype=numpy.float32)
        else:
            values = (random.standard_normal(shape) * SPREAD).astype(numpy.float32)
        writer.add_tensor(name, values)
    writer.write_header_to_file()
    writer.write_kv_data_to_file()
    writer.write_tensors_to_file()
    writer.close()
    os.replace(partial, path)


if __name__ == "__main__":
    write(sys.argv[1])
