"""Samples that repeat an earlier one, and samples that stand in a benchmark: by the filters of ``mftcoder.data``."""

from collections.abc import Sequence

import numpy as np

from mftcoder.config.schema import Filters
from mftcoder.construct.output import Tally
from mftcoder.construct.settings.samples import Decontaminate, Deduplicate
from mftcoder.data.filters.compared import compared_texts, content_hash, read_benchmarks
from mftcoder.data.filters.duplicates import Sketches, find_duplicates
from mftcoder.data.filters.minhash import Shingles, Signatures, shingles, sign
from mftcoder.data.records import Conversation

_AT_ONCE = 256  # conversations that are sketched together


class Sketchbook:
    """What all samples are compared by; their texts are not kept."""

    def __init__(self, deduplicate: Deduplicate | None, decontaminate: Decontaminate | None) -> None:
        """Raises MftcoderError where a benchmark cannot be read."""
        self._settings = deduplicate
        self._filters = Filters.model_validate(deduplicate.model_dump()) if deduplicate else None
        self._benchmarks = read_benchmarks(decontaminate, "decontaminate.benchmarks") if decontaminate else None
        self._waiting: list[Conversation] = []
        self._exact: list[int] = []
        self._shingles: list[Shingles] = []
        self._signatures: list[Signatures] = []
        self._found: list[str] = []  # why each is in a benchmark; empty if it is not

    def add(self, sample: Conversation) -> None:
        self._waiting.append(sample)
        if len(self._waiting) == _AT_ONCE:
            self._sketch()

    def kept(self, duplicates: Tally, contaminated: Tally) -> set[int]:
        """The numbers of the samples that neither repeat an earlier one nor stand in a benchmark; each tally counts."""
        self._sketch()
        left = set(range(len(self._found)))
        for number, reason in self._duplicates().items():
            duplicates.left_out[reason] += 1
            left.discard(number)
        duplicates.used += len(left)
        for number in sorted(left):
            if self._found[number]:
                contaminated.left_out[self._found[number]] += 1
                left.discard(number)
        contaminated.used += len(left)
        return left

    def _duplicates(self) -> dict[int, str]:
        if self._settings is None or not self._exact:
            return {}
        bands, low_bytes = (np.concatenate(parts) for parts in zip(*self._signatures, strict=True))
        sketches = Sketches(np.array(self._exact, np.uint64), bands, low_bytes, self._shingles.__getitem__)
        matches = find_duplicates(sketches, np.arange(len(self._exact)), self._settings.similarity)
        return {match.sample: "exact duplicate" if match.exact else "near-duplicate" for match in matches}

    def _sketch(self) -> None:
        samples, self._waiting = self._waiting, []
        if not samples:
            return
        if self._filters:
            similarity = self._filters.similarity
            self._exact += [content_hash(sample, self._filters) for sample in samples]
            if similarity is None:
                sets = [np.zeros(0, np.uint32)] * len(samples)
                signed = Signatures(np.zeros((len(samples), 0), np.uint32), np.zeros((len(samples), 0), np.uint8))
            else:
                sets = shingles(["\n".join(compared_texts(sample, self._filters.compare)) for sample in samples])
                signed = sign(sets, similarity)
            self._shingles += sets
            self._signatures.append(signed)
        self._found += self._in_benchmarks(samples)

    def _in_benchmarks(self, samples: Sequence[Conversation]) -> list[str]:
        if self._benchmarks is None:
            return [""] * len(samples)
        texts = [compared_texts(sample, "all") for sample in samples]
        hits = iter(self._benchmarks.find([text for some in texts for text in some]))
        found = [[next(hits) for _ in some] for some in texts]
        return [next((f"by {hit.reason}" for hit in some if hit), "") for some in found]
