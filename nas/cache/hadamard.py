"""Hadamard matrices: orthogonal, every entry of the same size, so they spread variance evenly over channels."""

from __future__ import annotations

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
    """Matrix of +1 and -1 with orthogonal rows by Paley I, Paley II (prime fields) or Sylvester's doubling, or None."""
    if n == 1:
        return np.ones((1, 1))
    if is_prime(n - 1) and n % 4 == 0:
        return paley_one(n - 1)
    if n % 4 == 0 and is_prime(n // 2 - 1) and (n // 2 - 1) % 4 == 1:
        return paley_two(n // 2 - 1)
    half = hadamard(n // 2) if n % 2 == 0 else None
    return None if half is None else np.kron(np.array([[1.0, 1.0], [1.0, -1.0]]), half)


def paley_one(q: int) -> Matrix:
    """Order q + 1 for a prime q = 3 mod 4."""
    skew = np.zeros((q + 1, q + 1))
    skew[0, 1:], skew[1:, 0], skew[1:, 1:] = 1, -1, residues(q)
    return skew + np.eye(q + 1)


def paley_two(q: int) -> Matrix:
    """Order 2 (q + 1) for a prime q = 1 mod 4."""
    core = np.ones((q + 1, q + 1))
    core[0, 0], core[1:, 1:] = 0, residues(q)
    return np.kron(core, [[1.0, 1.0], [1.0, -1.0]]) + np.kron(np.eye(q + 1), [[1.0, -1.0], [-1.0, -1.0]])


def residues(q: int) -> Matrix:
    """Jacobsthal matrix: the Legendre symbol of (row - column) modulo the prime q."""
    symbol = -np.ones(q)
    symbol[(np.arange(1, q) ** 2) % q] = 1
    symbol[0] = 0
    index = np.arange(q)
    matrix: Matrix = symbol[(index[:, None] - index[None, :]) % q]
    return matrix


def is_prime(n: int) -> bool:
    return n > 1 and all(n % divisor for divisor in range(2, int(n**0.5) + 1))
