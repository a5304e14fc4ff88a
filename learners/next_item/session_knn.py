"""Session-kNN: recommends the items of the most similar sessions. Strong with short sessions and many items."""

from array import array
from collections.abc import Sequence
from typing import Any, ClassVar, Final, Self

import numpy as np
from numpy.typing import NDArray

from headrace.state import State
from learners.next_item.equal import EqualKeys
from learners.protocol import Context, Scores

_empty: Final = -1
_step_weight: Final = 0.8
"""Weight factor per step: back from the end of the current session, and away from the shared item in a neighbour."""
_before_weight: Final = 0.7
"""Weight factor of a neighbour's items that precede the shared item."""
_newest_bonus: Final = 1e-3


class SessionKnn:
    """Finds sessions that share items with the current one and scores their items.

    Sessions are kept in a ring buffer, at their running number modulo its size. An inverted index holds each item's
    newest sessions. Of the `candidates_max` newest sessions that share an item with the prefix (the last `prefix_max`
    items), the `k` most similar ones are the neighbours. The last item of the prefix has weight 1, and each step back
    multiplies the weight by 0.8. A session's similarity is the sum of the weights of the shared items, divided by the
    square root of its length. Each neighbour adds a score to each of its items: its similarity, times the weight of
    the newest shared item, times 0.8 for each step between the item and that shared item in the neighbour; items
    before the shared item score less than items after it. Of equal sessions the newer one counts more, by less than a
    thousandth. All is kept per session; the sessions of several shards can be pooled.

    Args:
        k: number of neighbours.
        candidates_max: newest sessions that are compared.
        prefix_max: last distinct items of the session that are used.
        items_max: number of slots; every slot is below it.
        sessions_max: sessions kept, a power of two.
        session_items_max: distinct items kept per session, the first ones; longer sessions are mostly robots'.
        places: whether an item's position in a neighbour matters.

    Source: Jannach & Ludewig, "When recurrent neural networks meet the neighborhood for session-based recommendation",
    RecSys 2017, and the V-SKNN of Ludewig & Jannach, "Evaluation of session-based recommendation algorithms", 2018; the
    positions in the neighbour: Garg et al., "Sequence and time aware neighborhood for session-based recommendations",
    SIGIR 2019. Unlike there, sessions that have not ended are compared too, and the weights of older items decay
    exponentially.

    >>> knn = SessionKnn()
    >>> knn.learn(Context((), 0, 1, 0), 5)
    >>> knn.learn(Context((5,), 0, 1, 0), 8)
    >>> knn.predict(Context((5,), 0, 2, 0)).slots.tolist()
    [5, 8]
    """

    name: ClassVar[str] = "session_knn"
    trust: ClassVar[float] = 1.0

    def __init__(
        self,
        *,
        k: int = 100,
        candidates_max: int = 500,
        prefix_max: int = 20,
        items_max: int = 1 << 20,
        sessions_max: int = 1 << 18,
        session_items_max: int = 24,
        places: bool = True,
    ) -> None:
        assert sessions_max & (sessions_max - 1) == 0, f"sessions_max: wanted a power of two, found {sessions_max}"
        self.k = k
        self.candidates_max = candidates_max
        self.prefix_max = prefix_max
        self.items_max = items_max
        self.sessions_max = sessions_max
        self.session_items_max = session_items_max
        self.places = places
        self._weights = _step_weight ** np.arange(prefix_max)
        away = np.arange(1 - session_items_max, session_items_max)
        self._neighbour = np.arange(k * session_items_max) // session_items_max  # a division takes longer than a look
        self._fading = _step_weight ** np.abs(away) * np.where(away < 0, _before_weight, 1.0)
        self._numbers = np.full(sessions_max, _empty, np.int64)
        self._lengths = np.zeros(sessions_max, np.int16)
        self._items = np.zeros((sessions_max, session_items_max), np.int32)  # a row is emptied when a session takes it
        self._index: dict[int, array[int]] = {}
        self._postings = 0
        self._swept = 0
        self._equal_rows, self._equal_slots = EqualKeys(), EqualKeys()

    def predict(self, context: Context) -> Scores:
        """Return the items of the most similar sessions; nothing for an empty session."""
        items = context.items[max(context.start, len(context.items) - self.prefix_max) :]
        steps_back: dict[int, int] = {}
        for back, item in enumerate(reversed(items)):
            if item in self._index:
                steps_back.setdefault(item, back)
        if not steps_back:
            return _nothing()
        # The oldest item first, so that a session's last posting is that of the newest item that it shares.
        known, steps = np.array(list(steps_back)[::-1]), list(steps_back.values())[::-1]
        weights = self._weights.take(steps)
        rows, similarity, newest = self._neighbours(known.tolist(), weights, context.session)
        if not len(rows):
            return _nothing()
        votes = similarity * weights.take(newest) * (1.0 + _newest_bonus / len(rows) * np.arange(len(rows)))
        neighbours, width = self._items.take(rows, axis=0), self.session_items_max
        places = (neighbours != _empty).ravel().nonzero()[0]  # in the flat array, `width` for each neighbour
        neighbour = self._neighbour.take(places)
        scores = votes.take(neighbour)
        if self.places:
            shared = known.take(newest)
            at = (neighbours == shared[:, None]).ravel().nonzero()[0]  # each neighbour has its shared item once
            scores *= self._fading.take(places - at.take(neighbour) + (width - 1))
        slots, scores = self._equal_slots.sums(neighbours.ravel().take(places), scores)
        return Scores(slots, scores.astype(np.float32))

    def _neighbours(
        self, items: Sequence[int], weights: NDArray[np.floating[Any]], session: int
    ) -> tuple[NDArray[np.int64], NDArray[np.float64], NDArray[np.int64]]:
        """Return the sessions that are most similar to one with these items, which have postings, the oldest first.

        Args:
            weights: of the items, the newest item last.
            session: the session's own number.

        Shapes:
            weights: (items,); returns rows of the ring, similarities, places of the newest shared items: (up to k,)
        """
        postings = [np.frombuffer(self._index[item], np.int64)[-self.candidates_max :] for item in items]
        item = np.repeat(np.arange(len(items)), [len(posting) for posting in postings])
        numbers = np.concatenate(postings)
        rows = numbers & (self.sessions_max - 1)
        is_kept = self._numbers.take(rows) == numbers
        if not is_kept.all():
            numbers, rows, item = numbers[is_kept], rows[is_kept], item[is_kept]
        last = self._equal_rows.last_places(rows)
        places = (last == np.arange(len(last))).nonzero()[0]
        numbers = numbers.take(places)
        numbers[numbers == session] = _empty
        newest = (numbers >= max(0, _least(numbers, self.candidates_max))).nonzero()[0]
        numbers, places = numbers.take(newest), places.take(newest)
        rows, shared = rows.take(places), np.bincount(last, weights.take(item)).take(places)
        similarity = shared / np.sqrt(self._lengths.take(rows))
        chosen = numbers.argsort() if len(rows) <= self.k else self._most_similar(similarity, numbers)
        return rows.take(chosen), similarity.take(chosen), item.take(places.take(chosen))

    def _most_similar(self, similarity: NDArray[np.float64], numbers: NDArray[np.int64]) -> NDArray[np.intp]:
        """Return the places of the k most similar of more sessions, of equal ones the newest, the oldest first."""
        least = _least(similarity, self.k)
        chosen, tied = (similarity > least).nonzero()[0], (similarity == least).nonzero()[0]
        tied = tied.take(numbers.take(tied).argsort()[len(chosen) - self.k :])
        chosen = np.concatenate([chosen, tied])
        return chosen.take(numbers.take(chosen).argsort())

    def learn(self, context: Context, item: int) -> None:
        """Add the item to its session; does nothing if the ring has already overwritten the session."""
        assert 0 <= item < self.items_max, f"slot {item} is outside 0 to {self.items_max - 1}"
        number = context.session
        row = number % self.sessions_max
        held = int(self._numbers[row])
        if held != number:
            if held > number:
                return
            self._numbers[row] = number
            self._items[row] = _empty
            self._lengths[row] = 0
            if number - self._swept >= self.sessions_max:
                self._sweep(number)
        length = int(self._lengths[row])
        items = self._items[row]
        if length >= self.session_items_max or item in items[:length].tolist():
            return
        items[length] = item
        self._lengths[row] = length + 1
        posting = self._index.get(item)
        if posting is None:
            posting = self._index[item] = array("q")
        posting.append(number)
        self._postings += 1
        if len(posting) >= 2 * self.candidates_max:
            del posting[: self.candidates_max]
            self._postings -= self.candidates_max

    def _sweep(self, number: int) -> None:
        """Drop the postings of overwritten sessions. Called once per turn of the ring, which bounds its cost."""
        self._swept = number
        for item, posting in list(self._index.items()):
            kept = np.frombuffer(posting, np.int64)
            kept = kept[self._numbers[kept % self.sessions_max] == kept]
            if len(kept):
                self._index[item] = array("q", kept.tobytes())
            else:
                del self._index[item]
        self._postings = sum(map(len, self._index.values()))

    def take_back(self, item: int, time_ms: int) -> None:
        """Do nothing: the item stays one of its session."""

    def forget(self, slots: Sequence[int]) -> None:
        """Drop these slots. Scans the used part of the ring, so call it with many slots at once."""
        for slot in slots:
            self._postings -= len(self._index.pop(slot, ()))
        items = self._items[: int(self._lengths.nonzero()[0].max(initial=-1)) + 1]
        gone = np.zeros(max(int(items.max(initial=_empty)), max(slots, default=0)) + 2, np.bool_)
        gone[list(slots)] = True  # empty places, -1, index the last entry, which stays False
        items[gone[items]] = _empty

    def bounds(self) -> dict[str, tuple[int, int]]:
        """Return the use and the maximum of sessions, and of items and entries of the inverted index."""
        return {
            "items": (len(self._index), self.items_max),
            "sessions": (int(np.count_nonzero(self._lengths)), self.sessions_max),
            "postings": (self._postings, 2 * self.sessions_max * self.session_items_max),
        }

    def state(self) -> State:
        """Return the sessions in use and the index, each as flat arrays and lengths."""
        rows = np.flatnonzero(self._lengths)
        lengths = self._lengths[rows]
        return {
            "k": self.k,
            "candidates_max": self.candidates_max,
            "prefix_max": self.prefix_max,
            "items_max": self.items_max,
            "sessions_max": self.sessions_max,
            "session_items_max": self.session_items_max,
            "places": self.places,
            "swept": self._swept,
            "numbers": self._numbers[rows],
            "lengths": lengths,
            "items": self._items[rows][np.arange(self.session_items_max) < lengths[:, None]],
            "index": np.fromiter(self._index, np.int32, len(self._index)),
            "index_lengths": np.fromiter(map(len, self._index.values()), np.int32, len(self._index)),
            "postings": np.frombuffer(b"".join(posting.tobytes() for posting in self._index.values()), np.int64),
        }

    @classmethod
    def from_state(cls, state: State) -> Self:
        """Return a learner that continues exactly where `state` was taken."""
        names = ("k", "candidates_max", "prefix_max", "items_max", "sessions_max", "session_items_max", "places")
        learner = cls(**{name: state[name] for name in names})
        learner._swept = state["swept"]
        rows, lengths = state["numbers"] % learner.sessions_max, state["lengths"]
        learner._numbers[rows] = state["numbers"]
        learner._lengths[rows] = lengths
        items = np.full((len(rows), learner.session_items_max), _empty, np.int32)
        items[np.arange(learner.session_items_max) < lengths[:, None]] = state["items"]
        learner._items[rows] = items
        end = 0
        for item, length in zip(state["index"].tolist(), state["index_lengths"].tolist(), strict=True):
            start, end = end, end + length
            learner._index[item] = array("q", state["postings"][start:end].tobytes())
        learner._postings = len(state["postings"])
        return learner


def _nothing() -> Scores:
    return Scores(np.empty(0, np.int32), np.empty(0, np.float32))


def _least(values: NDArray[Any], count: int) -> Any:
    """Return the least of the `count` highest values, or of all if there are fewer."""
    return np.partition(values, -count)[-count] if len(values) > count else values.min(initial=_empty)
