// Not a module: it has to run before the first paint, or the other theme flashes up.
{
  const remembered = localStorage.getItem("imagegen-theme");
  if (remembered) {
    document.documentElement.dataset.theme = remembered;
  }
}
