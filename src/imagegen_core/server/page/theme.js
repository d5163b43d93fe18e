// Not a module: it must run before the first paint, or the wrong theme is visible for a moment.
{
  const remembered = localStorage.getItem("imagegen-theme");
  if (remembered) {
    document.documentElement.dataset.theme = remembered;
  }
}
