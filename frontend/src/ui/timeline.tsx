/** Under the picture: the strip of states, and one chart (position, speed, residual or score) of the whole task. */

import type { JSX } from "preact";
import { useEffect, useMemo, useRef } from "preact/hooks";
import uPlot from "uplot";
import "uplot/dist/uPlot.min.css";
import { drawStrip, STRIP_H } from "../canvas/strip";
import type { Workspace } from "../canvas/workspace";
import { residual, speed } from "../core/motion";
import { set, settings, type Settings } from "../core/settings";
import { useSignal } from "../core/signal";

const CHARTS: Record<Settings["chart"], string> = { position: "x, y", speed: "Speed", residual: "Residual", score: "Score" };
const CHART_H = 74;
const REDRAW_MS = 400; // the chart may lag behind the hand, the strip may not

function css(name: string): string {
  return getComputedStyle(document.documentElement).getPropertyValue(name).trim();
}

export function Timeline({ space }: { space: Workspace }): JSX.Element {
  useSignal(space.changed);
  const { chart } = useSignal(settings);
  const canvas = useRef<HTMLCanvasElement>(null);
  useEffect(() => {
    if (!canvas.current) return;
    const colours = { empty: css("--strip"), absent: css("--absent"), cursor: css("--text"), flag: css("--danger") };
    drawStrip(canvas.current, space.session, space.frame, space.flags, colours);
  });
  const { start, stop } = space.session.task;
  const jump = (event: PointerEvent): void => {
    if (event.buttons !== 1) return;
    const box = (event.currentTarget as HTMLElement).getBoundingClientRect();
    space.go(start + Math.floor(((event.clientX - box.left) / box.width) * (stop - start)));
  };
  return (
    <section class="timeline" aria-label="Timeline">
      <canvas
        ref={canvas}
        class="strip"
        style={{ height: `${STRIP_H}px` }}
        tabIndex={0}
        role="slider"
        aria-label="Frame"
        aria-valuemin={start}
        aria-valuemax={stop - 1}
        aria-valuenow={Math.max(space.frame, start)}
        onPointerDown={jump}
        onPointerMove={jump}
      />
      <div class="chart-row">
        <div class="tabs vertical" role="group" aria-label="Chart">
          {(Object.keys(CHARTS) as Settings["chart"][]).map((key) => (
            <button key={key} aria-pressed={chart === key} onClick={() => set({ chart: key })}>
              {CHARTS[key]}
            </button>
          ))}
        </div>
        <Chart space={space} kind={chart} />
      </div>
    </section>
  );
}

type Columns = [number[], ...(number | null)[][]];

function columns(space: Workspace, kind: Settings["chart"]): Columns {
  const { session } = space;
  const { start, stop } = session.task;
  const { at } = session.labels;
  const frames = Array.from({ length: stop - start }, (_, n) => start + n);
  const of = (value: (frame: number) => number | null | undefined): (number | null)[] => frames.map((f) => value(f) ?? null);
  if (kind === "speed") return [frames, of((f) => speed(at, f))];
  if (kind === "residual") return [frames, of((f) => residual(at, f))];
  if (kind === "score") return [frames, of((f) => session.proposals.get(f)?.score)];
  return [frames, of((f) => at(f)?.x), of((f) => at(f)?.y)];
}

function seriesOf(kind: Settings["chart"]): uPlot.Series[] {
  const line = (label: string, colour: string): uPlot.Series => ({ label, stroke: css(colour), width: 1.5, points: { show: false } });
  return kind === "position" ? [{}, line("x", "--line-a"), line("y", "--line-b")] : [{}, line(CHARTS[kind], "--line-a")];
}

function Chart({ space, kind }: { space: Workspace; kind: Settings["chart"] }): JSX.Element {
  const ref = useRef<HTMLDivElement>(null);
  const cursor = useRef<HTMLDivElement>(null);
  const { theme } = useSignal(settings);
  const tick = useSignal(space.changed);
  const plot = useRef<uPlot | undefined>(undefined);
  const { start, stop } = space.session.task;
  useEffect(() => {
    const element = ref.current!;
    const axis = { stroke: css("--muted"), grid: { stroke: css("--border"), width: 1 }, font: "11px system-ui", ticks: { show: false } };
    const made = new uPlot(
      {
        width: element.clientWidth,
        height: CHART_H,
        padding: [4, 14, 0, 0],
        legend: { show: false },
        cursor: { y: false, points: { show: false }, drag: { x: false, y: false } },
        scales: { x: { time: false, range: [start, stop] } },
        axes: [{ ...axis, size: 16, gap: 1 }, { ...axis, size: 44, space: 24 }],
        series: seriesOf(kind),
        hooks: { draw: [(drawn) => moveCursor(cursor.current, drawn, space)] },
      },
      columns(space, kind),
      element,
    );
    const jump = (): void => {
      const { left } = made.cursor;
      if (left !== undefined && left >= 0) space.go(Math.round(made.posToVal(left, "x")));
    };
    made.over.addEventListener("click", jump);
    const resized = new ResizeObserver(() => made.setSize({ width: element.clientWidth, height: CHART_H }));
    resized.observe(element);
    plot.current = made;
    return () => {
      resized.disconnect();
      made.destroy();
    };
  }, [space, kind, theme, start, stop]);
  const redraw = useMemo(() => throttled(REDRAW_MS), []);
  const revision = space.session.changed.value;
  useEffect(() => {
    redraw(() => plot.current?.setData(columns(space, kind)));
  }, [revision, redraw, space, kind]);
  useEffect(() => {
    if (plot.current) moveCursor(cursor.current, plot.current, space);
  }, [tick, space]);
  return (
    <div class="chart" ref={ref}>
      <div class="chart-cursor" ref={cursor} />
    </div>
  );
}

function moveCursor(cursor: HTMLElement | null, plot: uPlot, space: Workspace): void {
  const left = plot.over.offsetLeft + plot.valToPos(Math.max(space.frame, space.session.task.start), "x");
  if (cursor) cursor.style.transform = `translateX(${left}px)`;
}

/** Runs the last call of a burst, at most every so many milliseconds. */
function throttled(wait_ms: number): (work: () => void) => void {
  let timer: ReturnType<typeof setTimeout> | undefined;
  let latest: () => void = () => undefined;
  return (work) => {
    latest = work;
    timer ??= setTimeout(() => {
      timer = undefined;
      latest();
    }, wait_ms);
  };
}
