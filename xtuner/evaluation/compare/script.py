"""The style and the script of the pages of a comparison.

A page has the elements `.pair` with `data-id`, `data-difference`, `data-better` (names of metrics with "a" or
"b" after them) and, where votes are given, buttons with `data-choice`.
"""

STYLE = """
body { max-width: 1280px; }
.two { display: grid; grid-template-columns: 1fr 1fr; gap: 14px; }
.two h3 { margin: 8px 0 0; } .two > div { min-width: 0; }
.pair { border-top: 1px solid var(--line); border-left: 4px solid transparent; padding: 14px 0 14px 12px;
        content-visibility: auto; contain-intrinsic-size: auto 260px; }
.voting .pair.current { border-left-color: var(--bar); }
.pair[hidden] { display: none; }
.asked { background: none; border-style: dashed; }
mark.first { background: var(--warn); border-color: var(--warn-edge); }
.bar { position: sticky; top: 0; z-index: 1; background: var(--back); border-bottom: 1px solid var(--line);
       padding: 10px 0; display: flex; flex-wrap: wrap; gap: 8px 18px; align-items: center;
       margin-top: 18px; }
select, button { font: inherit; color: var(--ink); background: var(--box); border-radius: 8px;
                 border: 1px solid var(--line); padding: 5px 10px; max-width: 100%; }
button { cursor: pointer; } button:focus-visible, select:focus-visible { outline: 2px solid var(--bar); }
button[aria-pressed=true] { border-color: var(--edge); background: var(--trained); }
.votes { display: grid; grid-template-columns: 1fr auto 1fr; gap: 10px; margin-top: 8px; }
kbd { font: 12px ui-monospace, Consolas, monospace; border: 1px solid var(--line); border-radius: 4px;
      padding: 0 4px; }
@media (max-width: 640px) {
  body { padding: 16px 12px 60px; }
  .two { grid-template-columns: 1fr; gap: 4px; } .keys { display: none; }
  .votes { gap: 6px; } .votes button { padding: 9px 4px; }
  .bar label { flex: 1 1 100%; display: flex; gap: 8px; } .bar select { flex: 1; } }
"""

SCRIPT = """
const list = document.querySelector("#pairs"), pairs = [...list.children];
const sort = document.querySelector("#sort"), show = document.querySelector("#show");
const shown = document.querySelector("#shown");
function fits(pair, what) {
  if (what === "different") return Number(pair.dataset.difference) > 0;
  if (what === "open") return !pair.querySelector("[aria-pressed=true]");
  return what === "all" || pair.dataset.better.split(" ").includes(what);
}
function arrange() {
  const found = [...pairs];
  if (sort.value === "difference") found.sort((a, b) => b.dataset.difference - a.dataset.difference);
  list.append(...found);
  for (const pair of pairs) pair.hidden = !fits(pair, show.value);
  shown.textContent = pairs.filter(pair => !pair.hidden).length + " / " + pairs.length;
}
sort.onchange = show.onchange = () => { arrange(); if (voting) go(0); };
const voting = document.body.querySelector(".votes") !== null;
let current = null;
function visible() { return [...list.children].filter(pair => !pair.hidden); }
function select(pair, stays) {
  if (current) current.classList.remove("current");
  current = pair;
  if (!pair) return;
  pair.classList.add("current");
  if (stays) return;
  pair.scrollIntoView({ block: "start" });
  window.scrollBy(0, -document.querySelector(".bar").offsetHeight - 8);
}
function go(step) {
  const found = visible(), at = found.indexOf(current);
  if (at < 0) {
    const open = found.find(pair => fits(pair, "open")) || found[0] || null;
    select(open, open === found[0]);
  }
  else select(found[Math.min(Math.max(at + step, 0), found.length - 1)]);
}
async function vote(pair, choice) {
  const answer = await fetch("vote", { method: "POST", headers: { "Content-Type": "application/json" },
    body: JSON.stringify({ id: pair.dataset.id, choice }) });
  const state = document.querySelector("#state");
  if (!answer.ok) { state.textContent = await answer.text(); return; }
  for (const button of pair.querySelectorAll(".votes button"))
    button.setAttribute("aria-pressed", button.dataset.choice === choice);
  state.textContent = (await answer.json()).state;
  const found = visible(), after = found.slice(found.indexOf(pair) + 1);
  select(after.find(one => fits(one, "open")) || found.find(one => fits(one, "open")) || pair);
}
if (voting) {
  document.body.classList.add("voting");
  list.onclick = event => {
    const button = event.target.closest(".votes button");
    if (button) vote(button.closest(".pair"), button.dataset.choice);
  };
  const choices = { ArrowLeft: "left", 1: "left", ArrowRight: "right", 2: "right", 0: "tie", t: "tie" };
  document.onkeydown = event => {
    if (event.target.closest("select") || event.ctrlKey || event.metaKey || event.altKey) return;
    if (event.key in choices && current) vote(current, choices[event.key]);
    else if (event.key === "j") go(1);
    else if (event.key === "k") go(-1);
    else return;
    event.preventDefault();
  };
}
arrange();
if (voting) go(0);
"""
