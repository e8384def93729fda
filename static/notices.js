// The notice of the demo models can be closed for this session of the browser: the server leaves it out then.

document.documentElement.classList.add("js");
document.addEventListener("click", (event) => {
  const button = event.target.closest("[data-do=close]");
  if (!button) return;
  document.cookie = `${button.value}; path=/; SameSite=Lax`;
  button.closest(".notice").remove();
  document.getElementById("main").focus({ preventScroll: true });
});
