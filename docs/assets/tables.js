// Tables and code that are wider than the page scroll inside their own frames. The keyboard reaches these frames.
'use strict';

addEventListener('load', () => {
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
