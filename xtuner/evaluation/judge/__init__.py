"""A model at an OpenAI-compatible address that judges answers.

forms.py     the prompts, and what a reply says: a grade of 1 to 10, or the better one of two answers
judge.py     asks for verdicts, several at a time, each written when it comes
grades.py    a grade for each answer of `xtuner eval --judge`
duels.py     which answer of a pair is better, in both orders: `xtuner compare --judge`
"""
