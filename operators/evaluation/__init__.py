"""What another policy would have earned, from what was logged: estimators, intervals, and when the log cannot tell.

`single` judges single choices, `slates` judges lists. Both are pure functions of arrays.
"""
