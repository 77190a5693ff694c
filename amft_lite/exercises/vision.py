"""Checks of notebook 06: pictures in a prompt, and what a right answer is made of."""

from __future__ import annotations

import math

import torch
from torch import Tensor

from amft_lite.exercises.checking import Exercise, Mistake
from amft_lite.picture_llama import put_pictures_in


def _randn(*shape: int, seed: int = 0) -> Tensor:
    return torch.randn(*shape, dtype=torch.float64, generator=torch.Generator().manual_seed(seed))


# --- what comes out of an eye ---------------------------------------------------------------------


def eye_features(height: int, width: int, channels: list[int]) -> int:
    """Numbers that a picture is after its last convolution: each halves both sides, rounded down"""
    for _ in channels:
        height, width = height // 2, width // 2
    return channels[-1] * height * width


def _sides(change, channels):
    """Both sides after every layer, halved by `change`."""

    def count(height, width, c):
        for _ in channels(c):
            height, width = change(height), change(width)
        return c[-1] * height * width

    return count


def _halved_once(height, width, channels):
    return channels[-1] * (height // 2) * (width // 2)


EYE_FEATURES = Exercise(
    "eye_features",
    eye_features,
    [(32, 24, [16, 32, 64]), (32, 24, [16]), (28, 20, [8, 8]), (30, 22, [4, 8, 16])],
    [
        Mistake(
            "not halved",
            "each pooling halves height and width; none is halved here",
            lambda h, w, c: c[-1] * h * w,
        ),
        Mistake(
            "halved once",
            "both sides are halved once; there is a pooling after *each* convolution",
            _halved_once,
        ),
        Mistake(
            "one side",
            "only one side is halved; a 2 x 2 pooling halves both",
            lambda h, w, c: c[-1] * (h // 2 ** len(c)) * w,
        ),
        Mistake(
            "all channels",
            "the channels of all layers are added up; only the last layer's are handed on",
            lambda h, w, c: sum(c) * (h // 2 ** len(c)) * (w // 2 ** len(c)),
        ),
        Mistake(
            "channels multiplied",
            "the channels of all layers are multiplied; a convolution replaces the channels that "
            "come in",
            lambda h, w, c: math.prod(c) * (h // 2 ** len(c)) * (w // 2 ** len(c)),
        ),
        Mistake(
            "last not halved",
            "there is a pooling after the last convolution, too",
            _sides(lambda side: side // 2, lambda c: c[:-1]),
        ),
        Mistake(
            "rounded up",
            "an odd side is rounded up; pooling drops the row that is left over",
            _sides(lambda side: -(-side // 2), lambda c: c),
        ),
        Mistake(
            "channels forgotten",
            "this counts places; at each of them there is one number a channel",
            lambda h, w, c: (h // 2 ** len(c)) * (w // 2 ** len(c)),
        ),
        Mistake(
            "first channels",
            "the first layer's channels are counted; the last layer's are handed on",
            lambda h, w, c: c[0] * (h // 2 ** len(c)) * (w // 2 ** len(c)),
        ),
    ],
)

# --- pictures in the place of words ---------------------------------------------------------------


def _everywhere(words, ids, pictures, token):
    """Also what the model wrote itself: later tokens get the last picture."""
    found = words.clone()
    for row in range(len(ids)):
        for n, place in enumerate((ids[row] == token).nonzero().flatten().tolist()):
            found[row, place] = pictures[row, min(n, pictures.shape[1] - 1)]
    return found


def _first_picture(words, ids, pictures, token):
    return put_pictures_in(words, ids, pictures[:, :1].expand_as(pictures), token)


def _in_front(words, ids, pictures, token):
    found = words.clone()
    found[:, : pictures.shape[1]] = pictures
    return found


def _added(words, ids, pictures, token):
    return words + put_pictures_in(torch.zeros_like(words), ids, pictures, token)


def _last_places(words, ids, pictures, token):
    found = words.clone()
    for row in range(len(ids)):
        places = (ids[row] == token).nonzero().flatten()[-pictures.shape[1] :]
        found[row, places] = pictures[row]
    return found


def _whole_batch(words, ids, pictures, token):
    B, n, d = pictures.shape
    found = words.reshape(-1, d).clone()
    found[(ids.flatten() == token).nonzero().flatten()[: B * n]] = pictures.reshape(-1, d)
    return found.view_as(words)


def _side_by_side(words, ids, pictures, token):
    found, n = words.clone(), pictures.shape[1]
    for row in range(len(ids)):
        start = int((ids[row] == token).int().argmax())
        found[row, start : start + n] = pictures[row, : found.shape[1] - start]
    return found


_IDS = torch.tensor([[9, 3, 8, 3, 4, 3], [0, 7, 3, 3, 5, 6]])
_WORDS, _SEEN = _randn(2, 6, 4), _randn(2, 2, 4, seed=1)

PUT_PICTURES_IN = Exercise(
    "put_pictures_in",
    put_pictures_in,
    [
        (_WORDS, _IDS, _SEEN, 3),
        (_WORDS[:1], _IDS[:1], _SEEN[:1], 3),
        (_WORDS[1:], torch.tensor([[1, 3, 1, 1, 3, 2]]), _SEEN[1:], 3),
    ],
    [
        Mistake(
            "same picture",
            "every place gets the first picture; the n-th place of a row gets its n-th one",
            _first_picture,
        ),
        Mistake(
            "backwards",
            "the pictures are put in from the last to the first",
            lambda w, i, p, t: put_pictures_in(w, i, p.flip(1), t),
        ),
        Mistake(
            "in front",
            "the pictures stand at the front of the row, whatever is there; they belong where the "
            "picture token is",
            _in_front,
        ),
        Mistake(
            "added",
            "the pictures are added to the token's embedding; they take its place",
            _added,
        ),
        Mistake(
            "too many",
            "a picture token beyond the last picture (the model may have written one) is a word "
            "like others, and keeps its embedding",
            _everywhere,
        ),
        Mistake(
            "last places",
            "the pictures fill a row's last places; they belong in its first ones",
            _last_places,
        ),
        Mistake(
            "whole batch",
            "places are counted through the whole batch, so a spare token in one row moves the "
            "pictures of the next; count row by row",
            _whole_batch,
        ),
        Mistake(
            "first row's places",
            "every row is filled where the first one has its places; each has its own",
            lambda w, i, p, t: put_pictures_in(w, i[:1].expand_as(i), p, t),
        ),
        Mistake(
            "side by side",
            "the places are taken to lie side by side; other words may stand between them",
            _side_by_side,
        ),
        Mistake(
            "other rows",
            "rows get each other's pictures",
            lambda w, i, p, t: put_pictures_in(w, i, p.flip(0), t),
        ),
    ],
    gradients=(0, 2),
)

# --- what was read --------------------------------------------------------------------------------


def confusion(shown: Tensor, read: Tensor, kinds: int) -> Tensor:
    """Of each kind shown, the share that was read as each kind: [kinds, kinds]."""
    counts = torch.zeros(kinds, kinds, dtype=torch.float64)
    for a, b in zip(shown.tolist(), read.tolist(), strict=True):
        counts[a, b] += 1
    return counts / counts.sum(1, keepdim=True).clamp(min=1)


def _confusion(change):
    def matrix(shown, read, kinds):
        counts = torch.zeros(kinds, kinds, dtype=torch.float64)
        for a, b in zip(shown.tolist(), read.tolist(), strict=True):
            counts[a, b] += 1
        return change(counts)

    return matrix


CONFUSION = Exercise(
    "confusion",
    confusion,
    [
        (torch.tensor([0, 0, 0, 0, 1, 1, 2]), torch.tensor([0, 0, 0, 1, 1, 2, 0]), 3),
        (torch.tensor([3, 3, 0]), torch.tensor([3, 1, 0]), 4),
        (torch.tensor([2, 2, 2, 0, 1]), torch.tensor([2, 0, 0, 0, 1]), 5),
    ],
    [
        Mistake(
            "turned",
            "rows are what was read; the row is what was shown, the column what was read",
            lambda s, r, k: confusion(r, s, k),
        ),
        Mistake(
            "counts",
            "these are counts; divide each row by its sum, for kinds are shown unequally often",
            _confusion(lambda c: c),
        ),
        Mistake(
            "columns sum to one",
            "columns sum to 1 here, which answers another question (of what was read as 3, how "
            "much was a 3?); each row sums to 1",
            _confusion(lambda c: c / c.sum(0, keepdim=True).clamp(min=1)),
        ),
        Mistake(
            "share of all",
            "divided by the number of all cards; divide each row by its own sum",
            _confusion(lambda c: c / c.sum()),
        ),
        Mistake(
            "keepdim forgotten",
            "the sums of rows are divided along the columns; `keepdim=True` keeps them upright",
            _confusion(lambda c: c / c.sum(1).clamp(min=1)),
        ),
        Mistake(
            "twice is once",
            "a pair that occurs twice counts once (`counts[shown, read] += 1` does that)",
            lambda s, r, k: (
                (confusion(s, r, k) > 0) / torch.bincount(s, minlength=k).clamp(min=1)[:, None]
            ),
        ),
        Mistake(
            "one too many",
            "each row is divided by its sum *plus one*, so rows no longer sum to 1",
            _confusion(lambda c: c / (c.sum(1, keepdim=True) + 1)),
        ),
        Mistake(
            "only kinds that occur",
            "the matrix has a row for each kind that occurs; it needs `kinds` of them",
            lambda s, r, k: confusion(s, r, int(max(s.max(), r.max())) + 1),
        ),
        Mistake(
            "nan for the unseen",
            "the row of a kind that was never shown is nan (0 / 0); let it be 0",
            _confusion(lambda c: c / c.sum(1, keepdim=True)),
        ),
    ],
    fallback=("not the shares by row. Shown 0 0 1, read 0 1 1, of 2 kinds: [[.5, .5], [0, 1]]"),
)


# --- the order of judgement -----------------------------------------------------------------------


def graded(cards_right: bool, form_right: bool, values_right: bool, value: int, target: int):
    """The graded reward of one answer: its first fault, in the game's order."""
    if not cards_right:
        return -1.5
    if not form_right:
        return -3.0
    if not values_right:
        return -1.5
    return 5.0 if value == target else -1.0


def _summed(cards, form, values, value, target):
    faults = [-3.0 * (not form), -1.5 * (not cards), -1.5 * (not values), -1.0 * (value != target)]
    return sum(faults) or 5.0


def _last_fault(cards, form, values, value, target):
    if value != target:
        return -1.0
    return -1.5 if not values else -3.0 if not form else -1.5 if not cards else 5.0


def _success_first(cards, form, values, value, target):
    return 5.0 if value == target else graded(cards, form, values, value, target)


GRADED = Exercise(
    "graded",
    graded,
    [
        (True, True, True, 24, 24), (True, True, True, 23, 24), (False, True, True, 24, 24),
        (False, True, False, 24, 24), (True, True, False, 24, 24), (True, False, True, 24, 24),
        (False, False, False, 1, 24), (False, True, True, 7, 24), (True, False, False, 3, 24),
        (True, True, True, 7, 24), (True, True, False, 7, 24),
    ],
    [
        Mistake(
            "added up",
            "all faults are added up; here an answer pays for its first fault alone",
            _summed,
        ),
        Mistake(
            "target first",
            "an answer that reaches the target is paid although it misread its cards: that rewards "
            "a guess. Judge the target last",
            _success_first,
        ),
        Mistake(
            "cards ignored",
            "wrong cards cost nothing here; they are judged before all else",
            lambda c, f, v, x, t: graded(True, f, v, x, t),
        ),
        Mistake(
            "form first",
            "the form is judged before the cards here; whoever sees the wrong cards should be told "
            "that, whatever comes after",
            lambda c, f, v, x, t: -3.0 if not f else graded(c, f, v, x, t),
        ),
        Mistake(
            "values ignored",
            "values that are not those of the cards cost nothing here (-1.5, as wrong cards do)",
            lambda c, f, v, x, t: graded(c, f, True, x, t),
        ),
        Mistake(
            "last fault",
            "the price of the *last* fault is paid: return as soon as one is found",
            _last_fault,
        ),
        Mistake(
            "target ignored",
            "right cards, form and values are paid whatever the result; it must be the target",
            lambda c, f, v, x, t: graded(c, f, v, t, t),
        ),
        Mistake(
            "binary",
            "this is the 0/1 reward of Eq. 1; the graded game pays 5, -1, -1.5 and -3",
            lambda c, f, v, x, t: float(c and f and v and x == t),
        ),
    ],
    fallback="not the game's order: cards (-1.5), form (-3), values (-1.5), then target (5 or -1)",
)  # fmt: skip


# --- where success is lost ------------------------------------------------------------------------


def lost_by_reading(read_before: float, right_before: float, read_after: float, right_after: float):
    """Of the change in success, the part that reading explains (success given reading kept)."""
    return (read_after - read_before) * right_before / read_before


LOST_BY_READING = Exercise(
    "lost_by_reading",
    lost_by_reading,
    [(0.9, 0.27, 0.3, 0.06), (0.8, 0.2, 0.6, 0.1), (0.5, 0.1, 0.9, 0.18), (1.0, 0.3, 0.4, 0.2)],
    [
        Mistake(
            "whole change",
            "this is the whole change in success; how much of it would there be if hands that are "
            "read right were solved as often as before?",
            lambda a, p, b, q: q - p,
        ),
        Mistake(
            "change in reading",
            "this is the change in reading; of hands read right only some are solved: multiply by "
            "success *given* reading, before",
            lambda a, p, b, q: b - a,
        ),
        Mistake(
            "not given reading",
            "multiplied by success over all hands; success *given* reading is right / read",
            lambda a, p, b, q: (b - a) * p,
        ),
        Mistake(
            "given reading after",
            "success given reading is taken from after the change; keep it as it was before",
            lambda a, p, b, q: (b - a) * q / b,
        ),
        Mistake(
            "the other part",
            "this is what solving explains; reading explains the rest",
            lambda a, p, b, q: (q - p) - (b - a) * p / a,
        ),
        Mistake(
            "share of the change",
            "this is a share of the change; asked is the part itself, in success",
            lambda a, p, b, q: (b - a) * p / a / (q - p),
        ),
        Mistake(
            "mean of both",
            "success given reading is averaged over before and after; keep it as it was before",
            lambda a, p, b, q: (b - a) * (p / a + q / b) / 2,
        ),
        Mistake(
            "sign",
            "a loss is negative: after minus before",
            lambda a, p, b, q: (a - b) * p / a,
        ),
    ],
)

EXERCISES = (EYE_FEATURES, PUT_PICTURES_IN, CONFUSION, GRADED, LOST_BY_READING)
