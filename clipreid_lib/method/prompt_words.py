"""What can be said of an identity: the words that ``shared`` and ``fixed`` prompts are made of."""

import pandas as pd

from clipreid_lib.base.errors import UserError

SPOKEN = {"r": "right", "l": "left"}


def words_of(table: pd.DataFrame, identities: list[int], dataset: str) -> list[str]:
    """Describe each identity by what its own images' metadata say.

    Args:
        table: image rows with ``identity``, ``aspect`` and any of ``skin_color``, ``gender``, ``nail_polish``.
        identities: in the order wanted.
        dataset: for messages.

    Returns:
        One ending of "a photo of a ..." each, such as ``fair skinned male dorsal right hand with nail polish.``

    Raises:
        UserError: the data set brings no attribute, so that all sentences would be the same.
    """
    known = [name for name in ("skin_color", "gender", "nail_polish") if name in table]
    if not known:
        raise UserError(f"prompt_form: {dataset} says nothing about its people; use learned")
    people = table.groupby("identity")[["aspect", *known]].agg(lambda values: values.mode().iloc[0])
    return [_sentence(people.loc[identity]) for identity in identities]


def _sentence(person: pd.Series) -> str:
    words = [f"{person['skin_color']} skinned"] if person.get("skin_color") else []
    words += [str(person["gender"])] if person.get("gender") else []
    words += [SPOKEN.get(word, word) for word in str(person["aspect"]).split("_")]
    if words[-1] != "hand":
        words.append("hand")
    return " ".join(words) + (" with nail polish." if person.get("nail_polish") else ".")
