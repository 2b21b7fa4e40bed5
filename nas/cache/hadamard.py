"""Hadamard matrices: orthogonal, every entry of the same size, so they spread variance evenly over channels.

Constructions: Paley I and II over fields of p and p^2 elements (Paley 1933), and Kronecker products, of which
Sylvester's doubling is one. Of the multiples of 4 up to 256 they give all but 92, 116, 156, 172, 184, 188, 232, 236.
"""

from __future__ import annotations

from functools import cache
from math import isqrt

import numpy as np
from numpy.typing import NDArray

Matrix = NDArray[np.float64]


def spreading_rotation(n: int) -> Matrix:
    """Orthogonal (n, n): a Hadamard matrix / sqrt(n) where the constructions here give one, else a random rotation."""
    signs = hadamard(n)
    if signs is not None:
        return np.asarray(signs / np.sqrt(n))
    q, r = np.linalg.qr(np.random.default_rng(n).standard_normal((n, n)))
    rotation: Matrix = q * np.sign(np.diag(r))
    return rotation


def hadamard(n: int) -> Matrix | None:
    """Matrix of +1 and -1 with orthogonal rows, or None where no construction here gives one."""
    orders = factors(n)
    if orders is None:
        return None
    matrix: Matrix = np.ones((1, 1))
    for order in orders:
        matrix = np.kron(matrix, direct(order)).astype(np.float64)
    return matrix


@cache
def factors(n: int) -> tuple[int, ...] | None:
    """Orders with a direct construction whose product is n, as few as there are, or None."""
    if n == 1:
        return ()
    if n == 2 or is_paley_one(n) or is_paley_two(n):
        return (n,)
    for divisor in range(2, isqrt(n) + 1):
        if n % divisor == 0:
            left, right = factors(divisor), factors(n // divisor)
            if left is not None and right is not None:
                return left + right
    return None


def direct(n: int) -> Matrix:
    """Order 2, Paley I or Paley II."""
    if n == 2:
        return np.array([[1.0, 1.0], [1.0, -1.0]])
    return paley_one(n - 1) if is_paley_one(n) else paley_two(n // 2 - 1)


def is_paley_one(n: int) -> bool:
    return n % 4 == 0 and is_field(n - 1)


def is_paley_two(n: int) -> bool:
    return n % 8 == 4 and is_field(n // 2 - 1)


def paley_one(q: int) -> Matrix:
    """Order q + 1 for a field of q = 3 mod 4 elements."""
    skew = np.zeros((q + 1, q + 1))
    skew[0, 1:], skew[1:, 0], skew[1:, 1:] = 1, -1, jacobsthal(q)
    return skew + np.eye(q + 1)


def paley_two(q: int) -> Matrix:
    """Order 2 (q + 1) for a field of q = 1 mod 4 elements."""
    core = np.ones((q + 1, q + 1))
    core[0, 0], core[1:, 1:] = 0, jacobsthal(q)
    return np.kron(core, [[1.0, 1.0], [1.0, -1.0]]) + np.kron(np.eye(q + 1), [[1.0, -1.0], [-1.0, -1.0]])


def jacobsthal(q: int) -> Matrix:
    """Whether (row - column) is a square (1), zero (0) or neither (-1) in the field of q = p or p^2 elements.

    Element number a + p b stands for a + b w, with w^2 no square of the prime field; b is 0 where q is prime.
    """
    p = q if is_prime(q) else isqrt(q)
    squares = {i * i % p for i in range(p)}
    w_squared = next(i for i in range(p) if i not in squares)
    a, b = np.arange(q) % p, np.arange(q) // p
    character = -np.ones(q)
    character[(a * a + w_squared * b * b) % p + p * (2 * a * b % p)] = 1
    character[0] = 0
    matrix: Matrix = character[(a[:, None] - a) % p + p * ((b[:, None] - b) % p)]
    return matrix


def is_field(q: int) -> bool:
    """Whether q is an odd prime or the square of one."""
    return q % 2 == 1 and (is_prime(q) or (isqrt(q) ** 2 == q and is_prime(isqrt(q))))


def is_prime(n: int) -> bool:
    return n > 1 and all(n % divisor for divisor in range(2, isqrt(n) + 1))
