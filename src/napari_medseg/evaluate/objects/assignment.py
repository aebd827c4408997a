"""One-to-one matching of as many objects or as much weight as possible, among 100,000 objects that touch a few each.

Objects in a crowd are matched for good as soon as no other partner can be worth it; only what hangs together beyond
that goes to a solver, whose time grows with the square of the number of objects that hang together.
"""

from __future__ import annotations

import numpy as np
import numpy.typing as npt

Index = npt.NDArray[np.intp]
Weights = npt.NDArray[np.float64]

# chains of objects can go on for as many rounds as there are objects; the solver is faster on those
_ROUNDS = 20


def heaviest_matching(rows: Index, columns: Index, weights: Weights) -> Index:
    """Choose edges so that no two share a row or a column and their total weight is as large as possible.

    Edges that some best matching contains are taken first: an edge at least as heavy as the heaviest other edge of its
    row and of its column together. What is left goes to scipy's sparse solver (LAPJVsp,
    `scipy.sparse.csgraph.min_weight_full_bipartite_matching`), with a way out for every row.

    Parameters
    ----------
    rows, columns
        Ends of the edges, ``(n,)``; no edge occurs twice.
    weights
        Above 0, ``(n,)``.

    Returns
    -------
    chosen
        Positions of the chosen edges, ascending. Of several best matchings always the same one.
    """
    chosen: list[Index] = []
    left = np.arange(len(weights))
    for _ in range(_ROUNDS):
        row, column, weight = rows[left], columns[left], weights[left]
        certain = left[weight >= _heaviest_other(row, weight) + _heaviest_other(column, weight)]
        if not certain.size:
            break
        for ends in (rows, columns):
            # edges of equal weight can be certain together, but not both
            certain = certain[np.sort(np.unique(ends[certain], return_index=True)[1])]
        chosen.append(certain)
        left = left[~np.isin(row, rows[certain]) & ~np.isin(column, columns[certain])]
    if left.size:
        chosen.append(left[_solve(rows[left], columns[left], weights[left])])
    return np.sort(np.concatenate([np.zeros(0, np.intp), *chosen]))


def largest_matching(rows: Index, columns: Index, weights: Weights) -> Index:
    """Choose as many edges as possible so that no two share a row or a column, and of those the heaviest in total.

    Parameters and result are those of `heaviest_matching`; weights are at most 1.
    """
    if not rows.size:
        return np.zeros(0, np.intp)
    chosen = heaviest_matching(rows, columns, weights)
    # where the heaviest matching leaves no row or no column over, none has more edges
    part, number = _parts(rows, columns)
    most = np.minimum(_ends_in_each(part, rows, number), _ends_in_each(part, columns, number))
    short = np.bincount(part[chosen], minlength=number) < most
    left = np.flatnonzero(short[part])
    if not left.size:
        return chosen
    # a matching has fewer edges than this, so that no gain in weight outweighs one edge more
    more = 1.0 + weights[left] / (1 + int(most[short].sum()))
    again = left[heaviest_matching(rows[left], columns[left], more)]
    return np.sort(np.concatenate([chosen[~short[part[chosen]]], again]))


def _parts(rows: Index, columns: Index) -> tuple[Index, int]:
    """For each edge the number of the connected part of the graph that it belongs to, and how many there are."""
    from scipy.sparse import coo_array
    from scipy.sparse.csgraph import connected_components

    height, width = int(rows.max()) + 1, int(columns.max()) + 1
    ends = (rows, height + columns)
    graph = coo_array((np.ones(rows.size, np.int8), ends), shape=(height + width,) * 2)
    part = connected_components(graph, directed=False)[1][rows]
    numbers, dense = np.unique(part, return_inverse=True)
    return dense, len(numbers)


def _ends_in_each(part: Index, ends: Index, parts: int) -> Index:
    """How many different ends the edges of each part have."""
    return np.bincount(part[np.unique(ends, return_index=True)[1]], minlength=parts)


def _heaviest_other(ends: Index, weights: Weights) -> Weights:
    """For each edge the heaviest of the other edges at the same end; 0 if it is alone there."""
    if not ends.size:
        return weights
    order = np.lexsort((-weights, ends))
    first = np.append(True, np.diff(ends[order]) != 0)
    start = np.flatnonzero(first)
    second = np.where(np.diff(start, append=ends.size) > 1, weights[order[np.minimum(start + 1, ends.size - 1)]], 0.0)
    group = np.cumsum(first) - 1
    other = np.empty(ends.size)
    other[order] = np.where(first, second[group], weights[order[start]][group])
    return other


def _solve(rows: Index, columns: Index, weights: Weights) -> Index:
    from scipy.sparse import csr_array
    from scipy.sparse.csgraph import min_weight_full_bipartite_matching

    row = np.unique(rows, return_inverse=True)[1]
    column = np.unique(columns, return_inverse=True)[1]
    height, width = int(row.max()) + 1, int(column.max()) + 1
    # a column of its own lets each row go without; 1 on every edge, because a weight of 0 would be no edge
    ends = (np.append(row, np.arange(height)), np.append(column, width + np.arange(height)))
    values = np.append(1.0 + weights, np.ones(height))
    graph = csr_array((values, ends), shape=(height, width + height))
    taken_rows, taken_columns = min_weight_full_bipartite_matching(graph, maximize=True)
    partner = np.full(height, -1)
    partner[taken_rows] = taken_columns
    return np.flatnonzero(partner[row] == column)
