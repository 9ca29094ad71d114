"""Small tokenizers with the habits of those in use, and a model to go with them."""

from typing import Any, ClassVar

import torch
from tokenizers import AddedToken, Tokenizer, decoders, models, normalizers, pre_tokenizers, processors
from transformers import LlamaConfig, LlamaForCausalLM, PreTrainedTokenizerFast

MARK = "\u2581"
SPECIAL = ["<pad>", "<s>", "</s>", "<|im_start|>", "<|im_end|>"]
SENTENCEPIECE = normalizers.Sequence([normalizers.Prepend(MARK), normalizers.Replace(" ", MARK)])
FOLDING = normalizers.Sequence([normalizers.NFKC(), normalizers.Lowercase(), normalizers.Strip()])


def characters(
    post: str = "<s> $A", normalizer: Any = None, merges: tuple[tuple[str, str], ...] = (), eos: str = "</s>"
) -> Any:
    """One token a character and some merged ones; `post` as of a template post-processor: what stands around a text."""
    letters = [*map(chr, range(32, 127)), MARK, "\n", "\u00e9", "\u0301"]
    words = [*SPECIAL, *letters, *(a + b for a, b in merges)]
    inner = Tokenizer(models.BPE(vocab={word: i for i, word in enumerate(words)}, merges=list(merges)))
    inner.normalizer, inner.decoder = normalizer, decoders.Fuse()
    inner.add_special_tokens([AddedToken(word, special=True, normalized=False) for word in SPECIAL])
    inner.post_processor = processors.TemplateProcessing(single=post, special_tokens=[("<s>", 1), ("</s>", 2)])
    return PreTrainedTokenizerFast(tokenizer_object=inner, bos_token="<s>", eos_token=eos, model_max_length=4096)


def metaspace() -> Any:
    """As Gemma and newer Llama 2 conversions: blanks become marks before merging."""
    made = characters(merges=((MARK, "A"),))
    made.backend_tokenizer.pre_tokenizer = pre_tokenizers.Metaspace(prepend_scheme="first")
    return made


def byte_level() -> Any:
    """As GPT-2: a blank belongs to the word after it, and is left out of the token's span."""
    words = [*SPECIAL, *sorted(pre_tokenizers.ByteLevel.alphabet()), "\u0120A"]
    inner = Tokenizer(models.BPE(vocab={word: i for i, word in enumerate(words)}, merges=[("\u0120", "A")]))
    inner.add_special_tokens([AddedToken(word, special=True, normalized=False) for word in SPECIAL])
    inner.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
    inner.post_processor = processors.ByteLevel(trim_offsets=True)
    inner.decoder = decoders.ByteLevel()
    return PreTrainedTokenizerFast(tokenizer_object=inner, bos_token="<s>", eos_token="</s>", model_max_length=4096)


def slow() -> Any:
    """One in Python, without offsets; "?" and a blank behind it are one token."""
    from transformers.tokenization_python import PythonBackend

    class Slow(PythonBackend):  # type: ignore[misc]
        vocab_files_names: ClassVar[dict[str, str]] = {}

        def __init__(self) -> None:
            self.words = [*SPECIAL, *map(chr, range(32, 127)), "? "]
            super().__init__(bos_token="<s>", eos_token="</s>")

        @property
        def vocab_size(self) -> int:
            return len(self.words)

        def get_vocab(self) -> dict[str, int]:
            return {word: i for i, word in enumerate(self.words)}

        def _tokenize(self, text: str, **_: Any) -> list[str]:
            parts = text.split("? ")
            return [piece for part in parts[:-1] for piece in (*part, "? ")] + list(parts[-1])

        def _convert_token_to_id(self, token: str) -> int:
            return self.words.index(token)

        def _convert_id_to_token(self, index: int) -> str:
            return self.words[index]

        def build_inputs_with_special_tokens(self, token_ids_0: list[int], token_ids_1: Any = None) -> list[int]:
            return [1, *token_ids_0, 2]

        def get_special_tokens_mask(
            self, token_ids_0: list[int], token_ids_1: Any = None, already_has_special_tokens: bool = False
        ) -> list[int]:
            return [1, *[0] * len(token_ids_0), 1]

    return Slow()


def llama(vocabulary: int, **changes: Any) -> Any:
    torch.manual_seed(0)
    shape = {"hidden_size": 32, "intermediate_size": 64, "num_hidden_layers": 2, "num_attention_heads": 4}
    rest = {"max_position_embeddings": 128, "bos_token_id": 1, "eos_token_id": 2, "pad_token_id": None}
    return LlamaForCausalLM(LlamaConfig(**{"vocab_size": vocabulary, **shape, **rest, **changes})).eval()
