// Starts the requests that the page of a recording needs first, before its modules are loaded.
"use strict";
(() => {
  const start = (name) => {
    const request = fetch(`${location.pathname}/${name}`);
    request.catch(() => {}); // reported where it is awaited
    return request;
  };
  window.earlyRequests = { times: start("times"), index: start("index") };
})();
