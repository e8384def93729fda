// Keeps the end of an answer in view while it is written, until the reader scrolls.

const KEYS = new Set(["ArrowUp", "ArrowDown", "PageUp", "PageDown", "Home", "End", " "]);
const MARGIN = 24; // pixels below the end
const SLACK = 2; // pixels that a scroll position may differ by rounding

// Returns { look, end }: to be called when the element has grown, and when it grows no more. tail: where it ends until then.
export function follow(element, tail = element) {
  const over = new AbortController();
  let [following, expected, due, last] = [true, null, false, tail];
  const leave = () => {
    following = false;
  };
  const options = { passive: true, signal: over.signal };
  for (const kind of ["wheel", "touchmove"]) addEventListener(kind, leave, options);
  addEventListener("keydown", (event) => KEYS.has(event.key) && !event.target.closest("input, textarea, select, button, summary") && leave(), options);
  addEventListener("scroll", () => {
    if (expected !== null && scrollY < expected - SLACK) leave(); // with the scroll bar
    else if (below() <= SLACK) following = true; // the reader has come back to the end
  }, options);

  const below = () => last.getBoundingClientRect().bottom + MARGIN - innerHeight;

  const move = () => {
    due = false;
    const distance = below();
    if (!following || over.signal.aborted || distance <= 0) return;
    scrollBy({ top: distance, behavior: "instant" });
    expected = scrollY;
  };
  return {
    look() {
      if (!due) requestAnimationFrame(move);
      due = true;
    },
    end() {
      last = element;
      move();
      over.abort();
    },
  };
}
