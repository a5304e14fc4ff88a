"use strict"
// What pages do beside what htmx does: charts, keys, and the zone in which times are shown.
;(() => {
  const zone = Intl.DateTimeFormat().resolvedOptions().timeZone || "UTC"
  const kept = document.cookie.split("; ").find((one) => one.startsWith("headrace_zone="))
  if (kept !== `headrace_zone=${zone}`) document.cookie = `headrace_zone=${zone}; path=/; max-age=31536000; samesite=strict`

  // On a phone the list of pages is closed at first.
  const side = document.querySelector("details.side")
  if (side && matchMedia("(max-width: 52rem)").matches) side.open = false

  addEventListener("keydown", (event) => {
    if (event.ctrlKey || event.metaKey || event.altKey) return
    if (event.key === "Escape") document.querySelectorAll("details.menu[open]").forEach((one) => (one.open = false))
    if (event.key === "/" && !/^(input|textarea|select)$/i.test(event.target.tagName)) {
      document.querySelector('[data-key="/"]')?.focus()
      event.preventDefault()
    }
  })

  const colour = (name) => getComputedStyle(document.documentElement).getPropertyValue(`--${name}`).trim()
  const short = (value) => Math.abs(value) >= 1e6 ? `${+(value / 1e6).toPrecision(3)}M` : Math.abs(value) >= 1e4 ? `${+(value / 1e3).toPrecision(3)}k` : `${+value.toPrecision(4)}`
  const written = (value, unit) => value == null ? "–" : unit === "%" ? `${(100 * value).toFixed(1)} %` : `${short(value)}${unit ? ` ${unit}` : ""}`

  const day = (seconds) => new Date(1000 * seconds).toLocaleDateString(document.documentElement.lang, { dateStyle: "medium" })

  const draw = (place) => {
    const chart = JSON.parse(place.dataset.chart)
    const axis = { stroke: colour("soft"), grid: { stroke: colour("line"), width: 1 }, ticks: { stroke: colour("line") }, font: "12px system-ui, sans-serif" }
    const options = {
      width: place.clientWidth, height: 280,
      scales: { x: { time: !!chart.time }, y: chart.log ? { distr: 3 } : { range: (_, low, high) => uPlot.rangeNum(Math.min(low, chart.floor ?? low), high, 0.08, true) } },
      axes: [
        { ...axis, label: chart.along, labelSize: 22, labelFont: "12px system-ui, sans-serif", size: 34, ...(chart.time ? {} : { values: (_, all) => all.map(short) }) },
        { ...axis, size: 62, values: (_, all) => all.map((one) => one == null ? "" : written(one, chart.unit)) },
      ],
      series: [
        { label: chart.along, value: (_, one) => one == null ? "–" : chart.time ? day(one) : short(one) },
        ...chart.series.map((one) => ({
          label: one.name, stroke: colour(one.colour), width: one.bold ? 2.4 : 1.5, dash: one.dash ? [5, 4] : undefined,
          spanGaps: false, points: { show: false }, value: (_, value) => written(value, chart.unit),
        })),
      ],
      hooks: { draw: [(plot) => {
        const { ctx, bbox } = plot
        ctx.save()
        for (const mark of chart.marks || []) {
          const x = plot.valToPos(mark.x, "x", true)
          if (x < bbox.left || x > bbox.left + bbox.width) continue
          ctx.strokeStyle = colour(mark.colour)
          ctx.lineWidth = 1.5 * devicePixelRatio
          ctx.setLineDash(mark.short ? [] : [4 * devicePixelRatio, 3 * devicePixelRatio])
          ctx.beginPath()
          ctx.moveTo(x, mark.short ? bbox.top + bbox.height - 9 * devicePixelRatio : bbox.top)
          ctx.lineTo(x, bbox.top + bbox.height)
          ctx.stroke()
        }
        ctx.restore()
      }] },
    }
    place.replaceChildren()
    place.plot?.destroy()
    place.plot = new uPlot(options, [chart.x, ...chart.series.map((one) => one.values)], place)
    place.drawn = place.clientWidth
  }
  const drawAll = () => { if (window.uPlot) document.querySelectorAll("[data-chart]").forEach(draw) }
  addEventListener("load", drawAll)
  addEventListener("resize", () => document.querySelectorAll("[data-chart]").forEach((one) => {
    if (one.plot && one.drawn !== one.clientWidth) draw(one)
  }))
  matchMedia("(prefers-color-scheme: dark)").addEventListener("change", drawAll)
  document.addEventListener("htmx:after:swap", drawAll)
})()
