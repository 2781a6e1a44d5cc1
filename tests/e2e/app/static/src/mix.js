// The sum of a mix while it is typed; the server checks it again.
for (const form of document.querySelectorAll("form[data-mix]")) {
  const sum = form.querySelector("[data-mix-sum]");
  const tell = () => {
    const parts = [...form.querySelectorAll("[data-mix-part]")].map((input) => Number(input.value) || 0);
    const total = parts.reduce((a, b) => a + b, 0);
    sum.textContent = total === 100 ? "100 percent" : `${total} percent; it must be 100`;
    sum.classList.toggle("text-danger", total !== 100);
  };
  form.addEventListener("input", tell);
  tell();
}
