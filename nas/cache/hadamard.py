"""Construct Hadamard matrices. Their entries are +1 and -1, so they spread variance evenly over channels.

Constructions: Paley I and II over fields of p and p^2 elements (Paley 1933), and Kronecker products, which
include Sylvester's doubling. They give all multiples of 4 up to 256 but 92, 116, 156, 172, 184, 188, 232 and 236.
"""

from __future__ import annotations

from functools import cache
from math import isqrt

import numpy as np
from numpy.typing import NDArray

Matrix = NDArray[np.float64]


def spreading_rotation(n: int) -> Matrix:
    """Return an orthogonal matrix (n, n): a Hadamard matrix / sqrt(n) if there is a construction, else a random one."""
    signs = hadamard(n)
    if signs is not None:
        return np.asarray(signs / np.sqrt(n))
    q, r = np.linalg.qr(np.random.default_rng(n).standard_normal((n, n)))
    rotation: Matrix = q * np.sign(np.diag(r))
    return rotation


def hadamard(n: int) -> Matrix | None:
    """Return a Hadamard matrix (n, n), None without a construction."""
    orders = factors(n)
    if orders is None:
        return None
    matrix: Matrix = np.ones((1, 1))
    for order in orders:
        matrix = np.kron(matrix, direct(order)).astype(np.float64)
    return matrix


@cache
def factors(n: int) -> tuple[int, ...] | None:
    """Return orders with a direct construction whose product is n, None if there are none."""
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
    """Return the matrix of an order with a direct construction: 2, Paley I or Paley II."""
    if n == 2:
        return np.array([[1.0, 1.0], [1.0, -1.0]])
    return paley_one(n - 1) if is_paley_one(n) else paley_two(n // 2 - 1)


def is_paley_one(n: int) -> bool:
    """Tell whether Paley's first construction gives a matrix of order n."""
    return n % 4 == 0 and is_field(n - 1)


def is_paley_two(n: int) -> bool:
    """Tell whether Paley's second construction gives a matrix of order n."""
    return n % 8 == 4 and is_field(n // 2 - 1)


def paley_one(q: int) -> Matrix:
    """Return the matrix of order q + 1 from a field of q = 3 mod 4 elements."""
    skew = np.zeros((q + 1, q + 1))
    skew[0, 1:], skew[1:, 0], skew[1:, 1:] = 1, -1, jacobsthal(q)
    return skew + np.eye(q + 1)


def paley_two(q: int) -> Matrix:
    """Return the matrix of order 2 (q + 1) from a field of q = 1 mod 4 elements."""
    core = np.ones((q + 1, q + 1))
    core[0, 0], core[1:, 1:] = 0, jacobsthal(q)
    return np.kron(core, [[1.0, 1.0], [1.0, -1.0]]) + np.kron(np.eye(q + 1), [[1.0, -1.0], [-1.0, -1.0]])


def jacobsthal(q: int) -> Matrix:
    """Return the Jacobsthal matrix (q, q) of the field of q = p or p^2 elements.

    An entry is 1 where row - column is a square, 0 where it is zero, -1 elsewhere. Element number a + p b denotes
    a + b w, where w^2 is not a square in the prime field; b is 0 if q is prime.
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
    """Tell whether q is an odd prime or the square of one."""
    return q % 2 == 1 and (is_prime(q) or (isqrt(q) ** 2 == q and is_prime(isqrt(q))))


def is_prime(n: int) -> bool:
    """Tell whether n is prime."""
    return n > 1 and all(n % divisor for divisor in range(2, isqrt(n) + 1))
