"""What is refused of datasets' objects, and what is only said: the rules of `forebay check` on one object among those that the
cluster has. Pure.

Refused is what can never be right, by the object's own fields. What another object may still mend (a Secret, a grant, a runtime,
a source that is applied later) is a warning here and a condition afterwards: manifests are applied in any order. An update is
refused only for what it brings: an object that stands, whatever is wrong with it, can be edited, finalized and deleted.
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence

from forebay.api.manifests.manifest import load_documents
from forebay.api.manifests.mounts import UNKNOWN_SCHEME
from forebay.api.problem import Problem
from forebay.controller.admission.review import Answer, Cause, Object
from forebay.controller.comparing import APPLIED
from forebay.runtimes.documents import asked, node_of

_OWN = "object"
"""Stands for the file of the object in question."""
_ELSEWHERE = ("these files", "the files", "forebay up", "forebay warm", "one machine", "not acted on", "on the mounted tree")
"""Words of what `forebay check` says of files and of a machine without Kubernetes."""
_SETTLED = (APPLIED,)
"""Annotations of ours that one machine does not know."""


def judge(new: Object, old: Object | None, others: Sequence[Object], waits: str = "") -> Answer:
    """`others`: what the cluster has that belongs to it (runtimes or dataset of its name, classes, the source of a reference).

    `waits`: why a reference is not served yet, "" where it is.
    """
    if new.get("metadata", {}).get("deletionTimestamp"):
        return Answer()
    problems = _problems(new, others)
    before = {_what(p) for p in _problems(old, others)} if old is not None else set()
    alone = new.get("kind") == "Dataset" and not any(o["kind"].endswith("Runtime") for o in others)
    refused: list[Cause] = []
    warnings: list[str] = []
    for problem in problems:
        mine, is_new = problem.file == _OWN, _what(problem) not in before
        soft = alone and problem.message == UNKNOWN_SCHEME  # a class that is applied after it may know the scheme
        if problem.severity == "error" and mine and is_new and not soft:
            refused.append(Cause(problem.field, sentence(problem)))
        elif mine and not _elsewhere(problem):
            warnings.append(sentence(problem))
    if not refused:
        warnings += _caused(problems, others)
        warnings += [waits] if waits else []
    return Answer(refused=tuple(dict.fromkeys(refused)), warnings=tuple(warnings))


def sentence(problem: Problem) -> str:
    """Field, value, what is wrong, remedy."""
    text = " ".join(part for part in (problem.field, problem.value, problem.message) if part)
    text += f"; {problem.remedy}" if problem.remedy else ""
    return text if text.isprintable() else "".join(c if c.isprintable() else "?" for c in text)


def _caused(problems: Iterable[Problem], others: Sequence[Object]) -> list[str]:
    """What becomes wrong with another object by this one: its own field is to blame, so this one is let in."""
    wrong = [p for p in problems if p.file != _OWN and p.severity == "error"]
    if not wrong:
        return []
    before = {_what(p) for p in _problems(None, others)}
    return [f"{p.object}: {sentence(p)}" for p in wrong if _what(p) not in before]


def _problems(own: Object | None, others: Sequence[Object]) -> list[Problem]:
    """The object last, so that a second runtime is the one that comes."""
    documents = [node_of(asked(other), "") for other in others]
    if own is not None:
        documents.append(node_of(_plain(own), _OWN))
    return load_documents(documents, []).problems


def _plain(obj: Object) -> Object:
    plain = asked(obj)
    annotations = plain["metadata"].get("annotations")
    if isinstance(annotations, dict):
        plain["metadata"]["annotations"] = {k: v for k, v in annotations.items() if k not in _SETTLED}
    return plain


def _what(problem: Problem) -> tuple[str, str, str, str]:
    return problem.object, problem.field, problem.value, problem.message


def _elsewhere(problem: Problem) -> bool:
    said = f"{problem.message} {problem.remedy}"
    return any(words in said for words in _ELSEWHERE)
