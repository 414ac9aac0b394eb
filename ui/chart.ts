/** Throughput of the last minutes. */
import { h } from 'preact';
import { useEffect, useRef } from 'preact/hooks';
import uPlot from 'uplot';
import { bitRate } from './model.ts';

const HEIGHT = 330;
const DARK = '(prefers-color-scheme: dark)';

function open(into: HTMLElement, columns: uPlot.AlignedData): uPlot {
  const style = getComputedStyle(into);
  const colour = (name: string): string => style.getPropertyValue(`--${name}`);
  const axis = { stroke: colour('quiet'), grid: { stroke: colour('line'), width: 1 } };
  const value = (_: uPlot, bits: number | null): string =>
    bits === null ? '–' : bitRate(bits / 8);
  const options: uPlot.Options = {
    width: into.clientWidth,
    height: HEIGHT,
    scales: { y: { range: (_, _least, most) => [0, Math.max(most * 1.1, 8000)] } },
    axes: [axis, { ...axis, size: 80, values: (_, ticks) => ticks.map((it) => bitRate(it / 8)) }],
    series: [
      {},
      { label: 'sent', stroke: colour('accent'), width: 2, value },
      { label: 'received', stroke: colour('service'), width: 2, dash: [4, 3], value },
    ],
  };
  return new uPlot(options, columns, into);
}

export function Chart(props: { columns: readonly [number[], number[], number[]]; label: string }) {
  const box = useRef<HTMLDivElement>(null);
  const plot = useRef<uPlot | null>(null);
  const columns = props.columns as unknown as uPlot.AlignedData;
  const latest = useRef(columns);
  latest.current = columns;
  useEffect(() => {
    const element = box.current!;
    const remake = (): void => {
      plot.current?.destroy();
      plot.current = open(element, latest.current);
    };
    remake();
    const scheme = matchMedia(DARK);
    scheme.addEventListener('change', remake);
    const resized = new ResizeObserver(() =>
      plot.current?.setSize({ width: element.clientWidth, height: HEIGHT }),
    );
    resized.observe(element);
    return () => {
      resized.disconnect();
      scheme.removeEventListener('change', remake);
      plot.current?.destroy();
    };
  }, []);
  useEffect(() => plot.current?.setData(columns), [columns]);
  return h('div', { ref: box, class: 'chart', role: 'img', 'aria-label': props.label });
}
