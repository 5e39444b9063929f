#!/usr/bin/env python3
"""Draws target/bench.json and target/bench-streams.json as curves: tests/bench/curves.py > tests/bench/curves.svg"""

import json
import math

WIDTH, HEIGHT, LEFT, TOP = 260, 150, 62, 40
COLUMNS, ACROSS, DOWN = 3, 350, 280
COLOURS = ["#2563eb", "#d97706", "#059669"]


def rows():
    with open("target/bench.json") as file:
        return {row["row"]: row["medians"] for row in json.load(file)["rows"]}


def steps():
    with open("target/bench-streams.json") as file:
        return json.load(file)["steps"]


def panel(number, title, x_name, y_name, lines, log_x):
    """`lines`: name -> [(x, y)]."""
    left, top, out = LEFT + number % COLUMNS * ACROSS, TOP + number // COLUMNS * DOWN, []
    xs = [x for points in lines.values() for x, _ in points]
    top_y = max(y for points in lines.values() for _, y in points)
    unit = 10 ** math.floor(math.log10(top_y))
    top_y = math.ceil(top_y / unit) * unit
    scale = math.log10 if log_x else float
    low, high = scale(min(xs)), scale(max(xs))

    def place(x, y):
        return left + (scale(x) - low) / (high - low) * WIDTH, top + HEIGHT - y / top_y * HEIGHT

    def text(x, y, words, anchor="middle", colour="#555"):
        out.append(f'<text x="{x:.0f}" y="{y:.0f}" text-anchor="{anchor}" fill="{colour}">{words}</text>')

    text(left + WIDTH / 2, top - 22, title, colour="#111")
    text(left + WIDTH / 2, top + HEIGHT + 34, x_name)
    text(left - 46, top - 12, y_name, "start")
    for part in range(5):
        y = top_y * part / 4
        _, at = place(max(xs), y)
        out.append(f'<path d="M{left} {at:.1f}h{WIDTH}" stroke="#ddd"/>')
        text(left - 6, at + 4, f"{y:,.10g}", "end")
    for x in sorted(set(xs)):
        text(place(x, 0)[0], top + HEIGHT + 16, f"{x:,}")
    for index, (name, points) in enumerate(lines.items()):
        colour, places = COLOURS[index], [place(*point) for point in points]
        line = " ".join(f"{x:.1f},{y:.1f}" for x, y in places)
        out.append(f'<polyline points="{line}" fill="none" stroke="{colour}" stroke-width="2"/>')
        out.extend(f'<circle cx="{x:.1f}" cy="{y:.1f}" r="3" fill="{colour}"/>' for x, y in places)
        text(left + 8 + index * 100, top + HEIGHT + 54, name, "start", colour)
    return "\n".join(out)


def main():
    bench, streams = rows(), steps()
    accounts = [(10, "10"), (100, ""), (1_000, "1000"), (10_000, "10000"), (100_000, "100000")]

    def by_accounts(figure):
        name = lambda text: f"slotgate, {text} accounts" if text else "slotgate"
        return [(count, bench[name(text)][figure]) for count, text in accounts]

    def by_workers(figure):
        return [(1, bench["slotgate, 256 connections"][figure]), (2, bench["slotgate, 2 workers, 256 connections"][figure])]

    def by_streams(figure):
        return [(step["streams"], max(step[figure], 0)) for step in streams if step["streams"] not in (1_000, 2_000)]

    panels = [
        ("Accounts: CPU per request", "accounts in the pool", "µs", {"Envoy": by_accounts("Envoy us"), "Redis": by_accounts("Redis us")}, True),
        ("Accounts: start of Envoy", "accounts in the configuration", "ms", {"start": by_accounts("start ms")}, True),
        ("Workers, 256 connections", "workers", "requests/s", {"slotgate": by_workers("requests/s")}, False),
        ("Streams: CPU of renewals", "streams in flight", "% of a core", {"Envoy": by_streams("Envoy % core"), "Redis": by_streams("Redis % core")}, False),
        ("Streams: other requests", "streams in flight", "ms", {"p50": by_streams("p50 ms"), "p99": by_streams("p99 ms")}, False),
    ]
    width, height = COLUMNS * ACROSS, math.ceil(len(panels) / COLUMNS) * DOWN
    print(f'<svg xmlns="http://www.w3.org/2000/svg" viewBox="0 0 {width} {height}" font-family="sans-serif" font-size="12">')
    print('<rect width="100%" height="100%" fill="#fff"/>')
    for number, (title, x_name, y_name, lines, log_x) in enumerate(panels):
        print(panel(number, title, x_name, y_name, lines, log_x))
    print("</svg>")


main()
