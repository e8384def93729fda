// Waits that a signal ends at once.

// Resolves after so long, or when `signal` aborts.
export function pause(milliseconds, signal) {
  return new Promise((resolve) => {
    if (signal.aborted) resolve();
    const timer = setTimeout(resolve, milliseconds);
    signal.addEventListener("abort", () => resolve(clearTimeout(timer)));
  });
}

// Shows the seconds that are left, each once, until there are none.
export async function countdown(seconds, show, signal) {
  const end = Date.now() + 1000 * seconds;
  for (let left = seconds; left > 0 && !signal.aborted; left = Math.ceil((end - Date.now()) / 1000)) {
    show(left);
    await pause(Math.min(1000, end - Date.now()), signal);
  }
}
