// Sorting and filtering of the table of labeling functions; the page is whole without it.
for (const table of document.querySelectorAll("table.sortable")) {
  const body = table.tBodies[0], rows = [...body.rows];
  table.querySelectorAll("thead th").forEach((head, at) => {
    const button = document.createElement("button");
    button.type = "button";
    button.append(...head.childNodes);
    head.append(button);
    button.addEventListener("click", () => {
      const down = head.getAttribute("aria-sort") === "descending";
      table.querySelectorAll("thead th").forEach(other => other.removeAttribute("aria-sort"));
      head.setAttribute("aria-sort", down ? "ascending" : "descending");
      const value = row => row.cells[at].dataset.value ?? row.cells[at].textContent;
      const compare = (a, b) => {
        const [x, y] = [value(a), value(b)];
        if (x === "" || y === "") return (x === "") - (y === "");  // what is unknown comes last either way
        const order = isNaN(x) || isNaN(y) ? x.localeCompare(y) : x - y;
        return down ? order : -order;
      };
      body.append(...[...rows].sort(compare));
    });
  });
  const label = document.createElement("label"), field = document.createElement("input");
  field.type = "search";
  label.append("Filter ", field);
  label.className = "filter";
  table.parentElement.before(label);
  field.addEventListener("input", () => {
    const wanted = field.value.toLowerCase();
    for (const row of rows) row.hidden = !row.textContent.toLowerCase().includes(wanted);
  });
}
