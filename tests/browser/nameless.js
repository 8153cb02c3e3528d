() => [...document.querySelectorAll("button, select, input, section, [role=img]")].filter((e) => e.checkVisibility())
  .filter((e) => !(e.ariaLabel || e.textContent.trim() || e.labels?.length || e.hasAttribute("aria-labelledby"))).map((e) => e.outerHTML)
