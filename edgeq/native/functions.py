"""What steps in float compute, by the numbers of `edgeq.h`."""

from __future__ import annotations

from enum import IntEnum


class Pointwise(IntEnum):
    """Functions of one value."""

    ABS = 1
    ACOS = 2
    ACOSH = 3
    ASIN = 4
    ASINH = 5
    ATAN = 6
    ATANH = 7
    CEIL = 8
    CELU = 9
    CLIP = 10
    COS = 11
    COSH = 12
    ELU = 13
    ERF = 14
    EXP = 15
    EXP2 = 16
    EXPM1 = 17
    FLOOR = 18
    GELU = 19
    GELU_TANH = 20
    HARDSHRINK = 21
    HARDSIGMOID = 22
    HARDSWISH = 23
    IS_INFINITE = 24
    IS_NAN = 25
    LEAKY_RELU = 26
    LOG = 27
    LOG10 = 28
    LOG1P = 29
    LOG2 = 30
    MISH = 31
    NOT = 32
    RECIPROCAL = 33
    REPLACE = 34
    NEAREST = 35
    RSQRT = 36
    SIGMOID = 37
    SIGN = 38
    SIN = 39
    SINH = 40
    SOFTPLUS = 41
    SOFTSHRINK = 42
    SQRT = 43
    SQUARE = 44
    TAN = 45
    TANH = 46
    THRESHOLD = 47
    TRUNC = 48


class Pair(IntEnum):
    """Functions of two values."""

    SUM = 1
    DIFFERENCE = 2
    PRODUCT = 3
    QUOTIENT = 4
    LARGER = 5
    SMALLER = 6
    POWER = 7
    REMAINDER = 8
    EQUAL = 9
    UNEQUAL = 10
    LESS = 11
    LESS_EQUAL = 12
    AND = 13
    OR = 14
    XOR = 15
    WHERE = 16
    WHERE_NOT = 17
    PRELU = 18


class Row(IntEnum):
    """Functions of rows of values: to one each, or to as many."""

    TOTAL = 1
    LARGEST = 2
    SMALLEST = 3
    PLACE_OF_LARGEST = 4
    PLACE_OF_SMALLEST = 5
    L1 = 6
    L2 = 7
    EXPONENTIALS = 8
    VARIANCE = 9
    PRODUCT_OF_ALL = 10
    SOFTMAX = 11
    LOG_SOFTMAX = 12
    RUNNING_SUM = 13
    STANDARD = 14
    RMS = 15


class Pick(IntEnum):
    """What is done at places that are computed."""

    TAKE = 1
    PUT = 2
    ACCUMULATE = 3
