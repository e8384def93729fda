// Seconds that the reader has waited, beside what is waited for.
import { extra, figure, fill } from "./texts.js";

const FROM = 2; // seconds; before, a clock would only flicker

// Returns a function that stops the clock.
export function clock(element) {
  const began = performance.now();
  const show = () => {
    const seconds = Math.floor((performance.now() - began) / 1000);
    element.textContent = seconds < FROM ? "" : fill(extra.clock, { seconds: figure(seconds) });
  };
  show();
  const timer = setInterval(show, 1000);
  return () => {
    clearInterval(timer);
    element.textContent = "";
  };
}
