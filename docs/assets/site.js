// What the theme lacks for those who use the keyboard or a screen reader.
'use strict';

addEventListener('load', () => {
  document.querySelector('.md-search')?.setAttribute('aria-label', 'Search');
  // Tables and code that are wider than the page scroll inside their own frames, which the keyboard has to reach.
  const frames = document.querySelectorAll('.md-typeset__scrollwrap, .md-typeset__table, .md-typeset pre > code');
  const reach = () => {
    for (const frame of frames) {
      if (frame.scrollWidth > frame.clientWidth) frame.tabIndex = 0;
      else frame.removeAttribute('tabindex');
    }
  };
  reach();
  addEventListener('resize', reach);
});
