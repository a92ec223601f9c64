"""Inference from a fitted model: functions of a result; the methods of the results call them."""
