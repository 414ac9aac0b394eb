/** A force-directed graph on a canvas. It is drawn while it moves, and then only when it changes. */
import {
  type Simulation,
  type SimulationLinkDatum,
  type SimulationNodeDatum,
  forceCollide,
  forceLink,
  forceManyBody,
  forceSimulation,
  forceX,
  forceY,
} from 'd3-force';
import { h } from 'preact';
import { useEffect, useRef } from 'preact/hooks';
import type { Graph as GraphModel, GraphEdge, GraphNode } from './model.ts';

interface Body extends SimulationNodeDatum {
  node: GraphNode;
}
interface Spring extends SimulationLinkDatum<Body> {
  edge: GraphEdge;
}

const STILL = 0.02;
const RADIUS = 7;
/** More labels are not read. */
const LABELS_MAX = 80;
const DARK = '(prefers-color-scheme: dark)';

class Drawing {
  readonly #canvas: HTMLCanvasElement;
  readonly #simulation: Simulation<Body, Spring>;
  #bodies: Body[] = [];
  #springs: Spring[] = [];
  #frame = 0;
  #shape = '';

  constructor(canvas: HTMLCanvasElement) {
    this.#canvas = canvas;
    this.#simulation = forceSimulation<Body, Spring>([]).stop();
  }

  show({ nodes, edges }: GraphModel): void {
    const known = new Map(this.#bodies.map((it) => [it.node.id, it]));
    this.#bodies = nodes.map((node) => Object.assign(known.get(node.id) ?? { node }, { node }));
    this.#springs = edges.map((edge) => ({ edge, source: edge.source, target: edge.target }));
    const many = nodes.length > LABELS_MAX;
    this.#simulation
      .nodes(this.#bodies)
      .force('charge', forceManyBody<Body>().strength(many ? -60 : -350))
      .force('x', forceX<Body>(0).strength(0.08))
      .force('y', forceY<Body>(0).strength(0.12))
      .force('collide', forceCollide<Body>(RADIUS + 3))
      .force(
        'link',
        forceLink<Body, Spring>(this.#springs)
          .id(({ node }) => node.id)
          .distance(many ? 60 : 110)
          .strength(many ? 0.01 : 0.3),
      );
    const shape = [...nodes.map(({ id }) => id), ...edges.map((it) => `${it.source}>${it.target}`)];
    // What has only changed its colour does not move.
    if (shape.join() !== this.#shape) this.#simulation.alpha(0.8);
    this.#shape = shape.join();
    this.draw();
  }

  readonly draw = (): void => {
    this.#frame ||= requestAnimationFrame(() => this.#paint());
  };

  #paint(): void {
    this.#frame = 0;
    if (this.#simulation.alpha() > STILL) {
      this.#simulation.tick();
      this.draw();
    }
    const canvas = this.#canvas;
    const { clientWidth: width, clientHeight: height } = canvas;
    const ratio = devicePixelRatio;
    if (canvas.width !== Math.round(width * ratio)) canvas.width = Math.round(width * ratio);
    if (canvas.height !== Math.round(height * ratio)) canvas.height = Math.round(height * ratio);
    const context = canvas.getContext('2d');
    if (context === null) return;
    const style = getComputedStyle(canvas);
    const colour = (name: string): string => style.getPropertyValue(`--${name}`);
    const reach = this.#bodies.reduce(
      (most, { x = 0, y = 0 }) => Math.max(most, Math.abs(x) / width, Math.abs(y) / height),
      0,
    );
    const scale = Math.min(1, 0.42 / Math.max(reach, 0.01));
    context.setTransform(ratio, 0, 0, ratio, (width / 2) * ratio, (height / 2) * ratio);
    context.clearRect(-width / 2, -height / 2, width, height);
    const at = (body: Body): [number, number] => [(body.x ?? 0) * scale, (body.y ?? 0) * scale];
    const many = this.#bodies.length > LABELS_MAX;
    context.globalAlpha = many ? 0.25 : 0.9;
    // Few changes of the pen: one path a grade.
    for (const grade of ['good', 'warn', 'bad'] as const) {
      context.strokeStyle = colour(grade);
      context.lineWidth = many ? 0.6 : 1.6;
      context.setLineDash(grade === 'bad' ? [5, 4] : []);
      context.beginPath();
      for (const { edge, source, target } of this.#springs) {
        if (edge.grade !== grade) continue;
        context.moveTo(...at(source as Body));
        context.lineTo(...at(target as Body));
      }
      context.stroke();
    }
    context.globalAlpha = 1;
    context.setLineDash([]);
    context.font = '12px system-ui, sans-serif';
    context.textAlign = 'center';
    const colours = {
      node: colour('accent'),
      workload: colour('accent'),
      service: colour('service'),
      outside: colour('quiet'),
      bad: colour('bad'),
    };
    const radius = many ? 4 : RADIUS;
    for (const body of this.#bodies) {
      const [x, y] = at(body);
      context.fillStyle = colours[body.node.kind];
      context.beginPath();
      if (body.node.kind === 'service')
        context.rect(x - radius, y - radius, 2 * radius, 2 * radius);
      else context.arc(x, y, radius, 0, 2 * Math.PI);
      context.fill();
      if (many && body.node.kind !== 'bad') continue;
      context.fillStyle = colour('text');
      context.fillText(body.node.label, x, y + radius + 13);
    }
  }

  stop(): void {
    if (this.#frame !== 0) cancelAnimationFrame(this.#frame);
  }
}

export function Graph(props: { graph: GraphModel; label: string; tall?: boolean }) {
  const canvas = useRef<HTMLCanvasElement>(null);
  const drawing = useRef<Drawing | null>(null);
  useEffect(() => {
    const made = new Drawing(canvas.current!);
    drawing.current = made;
    const resized = new ResizeObserver(made.draw);
    resized.observe(canvas.current!);
    const scheme = matchMedia(DARK);
    scheme.addEventListener('change', made.draw);
    return () => {
      made.stop();
      resized.disconnect();
      scheme.removeEventListener('change', made.draw);
    };
  }, []);
  useEffect(() => drawing.current?.show(props.graph), [props.graph]);
  return h('canvas', {
    ref: canvas,
    class: props.tall === true ? 'graph tall' : 'graph',
    role: 'img',
    'aria-label': props.label,
  });
}
