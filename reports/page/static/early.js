/* Before anything is drawn: the chosen theme, and a place for errors to be seen. */
document.documentElement.dataset.script = "on";
window.addEventListener("error", (event) => {
  if (!event.message) return;
  document.documentElement.dataset.errors = event.message;
  const banner = document.getElementById("script-error");
  if (!banner) return;
  banner.hidden = false;
  banner.textContent = "The script of this page failed: " + event.message;
});
try {
  const theme = localStorage.getItem("crossframe-theme");
  if (theme === "light" || theme === "dark") document.documentElement.dataset.theme = theme;
} catch { /* a browser may forbid storage to files; then the page follows the system */ }
