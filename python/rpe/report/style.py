"""Style sheet and script of the report page, inlined into it."""

from __future__ import annotations

STYLE = """
:root { color-scheme: light dark; --ink: #1d2329; --quiet: #69737d; --paper: #f6f7f8; --card: #fff; --line: #dfe3e7; }
@media (prefers-color-scheme: dark) {
  :root { --ink: #e4e7ea; --quiet: #98a2ab; --paper: #15181b; --card: #1e2226; --line: #343a40; }
}
body { margin: 0; background: var(--paper); color: var(--ink); font: 15px/1.5 system-ui, "Segoe UI", sans-serif; }
main { max-width: 1320px; margin: 0 auto; padding: 24px 28px 64px; }
h1 { font-size: 25px; margin: 8px 0 18px; }
h2 { font-size: 18px; margin: 0 0 10px; }
h3 { font-size: 14px; margin: 0 0 8px; overflow-wrap: anywhere; }
section, details { background: var(--card); border: 1px solid var(--line); border-radius: 8px; padding: 14px 18px;
  margin: 0 0 16px; }
summary { cursor: pointer; font-weight: 600; }
.scroll { overflow-x: auto; max-height: 480px; margin-top: 8px; }
table { border-collapse: collapse; font-variant-numeric: tabular-nums; }
th, td { padding: 4px 14px 4px 0; text-align: right; border-bottom: 1px solid var(--line); white-space: nowrap; }
th { color: var(--quiet); font-weight: 600; position: sticky; top: 0; background: var(--card); }
th[title] { text-decoration: underline dotted; cursor: help; }
th:first-child, td:first-child { text-align: left; }
.quiet { color: var(--quiet); font-weight: normal; }
.plot { width: 100%; max-width: 960px; border-radius: 6px; }
.legend span { margin-right: 16px; white-space: nowrap; }
.legend i { display: inline-block; width: 12px; height: 12px; border-radius: 3px; margin-right: 5px; }
article { border-top: 1px solid var(--line); padding: 14px 0 6px; }
.band { display: grid; gap: 10px; margin-bottom: 10px;
  grid-template-columns: repeat(auto-fit, minmax(var(--smallest), 1fr)); }
figure { margin: 0; max-width: 420px; }
figure img { width: 100%; display: block; border-radius: 4px; image-rendering: pixelated; cursor: zoom-in;
  background: #000; }
figcaption { font-size: 12.5px; color: var(--quiet); margin-top: 3px; }
figure.large { position: fixed; inset: 0; max-width: none; background: rgba(0, 0, 0, .88); z-index: 9; display: flex;
  flex-direction: column; align-items: center; justify-content: center; }
figure.large img { width: auto; height: 92vh; max-width: 96vw; object-fit: contain; cursor: zoom-out; }
"""

SCRIPT = """
document.addEventListener("click", (event) => {
  const figure = event.target.closest("figure");
  const large = document.querySelector("figure.large");
  if (large) large.classList.remove("large");
  if (figure && figure !== large) figure.classList.add("large");
});
document.addEventListener("keydown", (event) => {
  const large = document.querySelector("figure.large");
  if (large && event.key === "Escape") large.classList.remove("large");
});
"""
