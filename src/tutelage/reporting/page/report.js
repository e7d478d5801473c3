(() => {
  "use strict";
  const root = document.documentElement;
  const remember = {
    read: () => { try { return localStorage.getItem("tutelage-theme"); } catch { return null; } },
    write: (theme) => { try { localStorage.setItem("tutelage-theme", theme); } catch { /* private window */ } },
  };
  const dark = matchMedia("(prefers-color-scheme: dark)");
  const chosen = remember.read();
  if (chosen === "dark" || chosen === "light") root.dataset.theme = chosen;

  addEventListener("DOMContentLoaded", () => {
    const button = document.getElementById("theme");
    const isDark = () => (root.dataset.theme ?? (dark.matches ? "dark" : "light")) === "dark";
    const label = () => {
      button.textContent = isDark() ? "Light" : "Dark";
      button.setAttribute("aria-label", `Switch to the ${isDark() ? "light" : "dark"} theme`);
    };
    button.hidden = false;
    button.addEventListener("click", () => {
      root.dataset.theme = isDark() ? "light" : "dark";
      remember.write(root.dataset.theme);
      label();
    });
    dark.addEventListener("change", label);
    label();

    const tip = document.getElementById("tip");
    document.addEventListener("pointerover", (event) => {
      const mark = event.target.closest?.("[data-tip]");
      tip.hidden = !mark;
      if (!mark) return;
      tip.textContent = mark.dataset.tip;
      const box = mark.getBoundingClientRect();
      const own = tip.getBoundingClientRect();
      const left = Math.min(Math.max(box.left + box.width / 2 - own.width / 2, 8), innerWidth - own.width - 8);
      const above = box.top - own.height - 8;
      tip.style.left = `${left}px`;
      tip.style.top = `${above > 8 ? above : box.bottom + 8}px`;
    });
    addEventListener("scroll", () => { tip.hidden = true; }, { passive: true });

    // Only what scrolls is a stop for the Tab key.
    const boxes = document.querySelectorAll(".scroll, blockquote");
    const stops = new ResizeObserver((entries) => {
      for (const { target } of entries) {
        const scrolls = target.scrollWidth > target.clientWidth + 1 || target.scrollHeight > target.clientHeight + 1;
        if (scrolls) target.tabIndex = 0; else target.removeAttribute("tabindex");
      }
    });
    boxes.forEach((box) => stops.observe(box));

    let opened = [];
    addEventListener("beforeprint", () => {
      opened = [...document.querySelectorAll("details:not([open], .numbers)")];
      opened.forEach((part) => { part.open = true; });
    });
    addEventListener("afterprint", () => { opened.forEach((part) => { part.open = false; }); });
  });
})();
