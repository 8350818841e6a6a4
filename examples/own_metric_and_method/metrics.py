"""A metric of one's own: the fraction of the words of the reference that the answer has."""


def words_found(question, answer, row):
    reference = row["messages"][-1]["content"].lower().split()
    found = set(answer.lower().split())
    return sum(word in found for word in reference) / len(reference)
