// From a picture, as Python sends it, to what plotly draws: lines and layout.

const axisName = (letter, number) => (number > 1 ? `${letter}${number}` : letter);

/** A copy of the bytes as numbers: a view of them may lie anywhere in a message. */
function numbers(Kind, bytes) {
  const { buffer, byteOffset, byteLength } = bytes;
  return new Kind(buffer.slice(byteOffset, byteOffset + byteLength));
}

export function tracesOf(picture, panes, hidden) {
  const x = numbers(Float64Array, picture.x);
  const y = numbers(Float32Array, picture.y);
  const traces = [];
  for (const [line, name] of picture.names.entries()) {
    for (const [number, pane] of panes.entries()) {
      const from = (line * panes.length + number) * x.length;
      traces.push({
        type: "scatter",
        mode: "lines",
        x,
        y: y.subarray(from, from + x.length),
        name: `${name}${pane.label}`.replaceAll("<", "&lt;"),
        line: { color: picture.colours[line], width: 1.5, dash: pane.dash, simplify: true },
        hovertemplate: pane.hover,
        xaxis: axisName("x", pane.axis),
        yaxis: axisName("y", pane.axis),
        visible: !hidden.has(name),
      });
    }
  }
  return traces;
}

/** The layout in the page's colours and width; its axis of time shows the picture's window. */
export function layoutOf(layout, picture, palette, width) {
  const made = { ...layout, width, autosize: false };
  made.font = { ...layout.font, color: palette.muted, family: palette.font };
  made.modebar = { ...layout.modebar, color: palette.muted, activecolor: palette.accent };
  made.annotations = layout.annotations.map((title) => ({ ...title, font: { ...title.font, color: palette.text } }));
  made.hoverlabel = {
    ...layout.hoverlabel,
    bgcolor: palette.background,
    bordercolor: palette.line,
    font: { color: palette.text },
  };
  for (const [key, axis] of Object.entries(layout)) {
    if (key.startsWith("xaxis")) made[key] = { ...axis, range: [...picture.window] };
    else if (key.startsWith("yaxis")) made[key] = { ...axis };
  }
  return made;
}
