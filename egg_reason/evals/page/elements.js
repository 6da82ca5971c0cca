"use strict";
// Elements made of data. Text only ever enters the page as text nodes and attributes: nothing is parsed as HTML.

// element("td", {class: "number", onclick: f, hidden: true}, child, "text", null): nulls are left out, functions become listeners.
function element(name, properties, ...children) {
  return filled(document.createElement(name), properties, children);
}

function drawing(name, properties, ...children) {
  return filled(document.createElementNS("http://www.w3.org/2000/svg", name), properties, children);
}

function filled(made, properties, children) {
  for (const [key, value] of Object.entries(properties || {})) {
    if (value === null || value === undefined || value === false) continue;
    if (typeof value === "function") made.addEventListener(key.slice(2), value);
    else made.setAttribute(key, value === true ? "" : value);
  }
  made.append(...children.flat().filter((child) => child !== null && child !== undefined));
  return made;
}

const counted = (number) => number.toLocaleString("en-GB");
const percent = (share) => `${(100 * share).toFixed(1)}%`;
const plural = (number, noun) => `${counted(number)} ${noun}${number === 1 ? "" : "s"}`;
const byId = (id) => document.getElementById(id);
