"""A reward for the form of an answer."""


def sentence(question, answer, row):
    """How much of a short sentence it is: a capital, a full stop at the end and nowhere else, few letters."""
    text = answer.strip()
    asked = [text[:1].isupper(), text.endswith("."), text.count(".") == 1, len(text) <= 40]
    return sum(asked) / len(asked)
